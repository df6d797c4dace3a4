"""Swin for inference, on images whose sizes are known beforehand: the answers of swin.py, faster.

Both scales of the image go through together, as one list of tokens. Shift, padding, partition into
windows and their way back are one gather each, with indices made once. Of the shift's mask there
are four kinds only (a window inside, at the bottom, at the right, in the corner), so that windows
are sorted by kind, and bias and mask are one small tensor for each. Padding takes part as a key and
is the same everywhere: the bias of the projection; nothing is computed for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.swin import (
    PATCH,
    PatchMerging,
    Swin,
    SwinBlock,
    SwinStage,
    partition,
    shift_mask,
)
from bgpipe.pipeline.networks.birefnet_fused.layers import make_dense, submodule

Grid = tuple[int, int]
"""Lines and columns of tokens."""

ALIGNMENT = 16  # numbers to which CUDA's attention wants the rows of a bias aligned
CPU_VALUES = 2**21  # inside an MLP at a time: they stay in the cache


class FusedSwin(nn.Module):
    """Images, one tensor [B, 3, H, W] for each of `sizes`, to four maps of each."""

    def __init__(self, swin: Swin, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.patch_embed = swin.patch_embed
        grids = [(_half(height, PATCH), _half(width, PATCH)) for height, width in sizes]
        stages = []
        for i in range(len(swin.layers)):
            stage, norm = (
                submodule(swin, f"layers.{i}", SwinStage),
                submodule(swin, f"norm{i}", nn.LayerNorm),
            )
            stages.append(FusedSwinStage(stage, norm, grids))
            grids = [(_half(height), _half(width)) for height, width in grids]
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        """For each image its maps [B, embed * 2^i, H / (4 * 2^i), W / (4 * 2^i)], rounded up."""
        x = torch.cat([self.patch_embed(image).flatten(1, 2) for image in images], dim=1)
        stages = []
        for stage in self.stages:
            maps, x = stage(x)
            stages.append([one.permute(0, 3, 1, 2) for one in maps])
        return [list(maps) for maps in zip(*stages, strict=True)]


class FusedSwinStage(nn.Module):
    """Tokens [B, T, C] of all grids to their normalised maps and to the next stage's tokens."""

    def __init__(self, stage: SwinStage, norm: nn.LayerNorm, grids: Sequence[Grid]) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.norm = norm
        self.merging = stage.downsample if isinstance(stage.downsample, PatchMerging) else None
        blocks = [submodule(stage, f"blocks.{j}", SwinBlock) for j in range(len(stage.blocks))]
        self.blocks = nn.ModuleList(FusedSwinBlock(block) for block in blocks)
        self.windows = nn.ModuleDict(
            {str(shift): Windows(grids, stage.window, shift) for shift in {b.shift for b in blocks}}
        )

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        for block in self.blocks:
            x = block(x, self.windows[str(block.shift)])
        return self._maps(self.norm(x)), self._merged(x)

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Tokens [B, T, C] as one map [B, H, W, C] for each grid."""
        parts = torch.split(x, [height * width for height, width in self.grids], dim=1)
        return [one.view(len(x), *grid, -1) for one, grid in zip(parts, self.grids, strict=True)]

    def _merged(self, x: Tensor) -> Tensor:
        if self.merging is None:
            return x
        return torch.cat([self.merging(one).flatten(1, 2) for one in self._maps(x)], dim=1)


class FusedSwinBlock(nn.Module):
    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.shift = block.shift
        self.heads = block.attn.heads
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv, self.proj = make_dense(block.attn.qkv), make_dense(block.attn.proj)
        self.fc1, self.fc2 = make_dense(block.mlp.fc1, "gelu"), make_dense(block.mlp.fc2)
        self.tokens = block.window**2
        self.register_buffer("bias", _bias(block))
        self.bias: Tensor  # [kinds, heads, N, N, rounded up]

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Tokens [B, T, C]."""
        qkv = self.qkv(self.norm1(x))
        inside = windows.gather(qkv, self.qkv.get_parameter("bias"))
        x = x + self.proj(windows.scatter(self._attend(inside, windows.ends(len(x))), x.shape))
        return x + self._mlp(self.norm2(x))

    def _attend(self, qkv: Tensor, ends: Sequence[int]) -> Tensor:
        """Windows [windows * B, N, 3C] to [windows * B * N, C]; kind k ends before `ends[k]`."""
        count, tokens, _ = qkv.shape
        q, k, v = qkv.view(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out, start = [], 0
        for bias, end in zip(self.bias[..., : self.tokens], ends, strict=True):
            if start < end:
                some = slice(start, end)
                out.append(
                    F.scaled_dot_product_attention(
                        q[some], k[some], v[some], attn_mask=bias.unsqueeze(0)
                    )
                )
            start = end
        rows = [one.transpose(1, 2).flatten(2).flatten(0, 1) for one in out]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _mlp(self, x: Tensor) -> Tensor:
        rows = x.shape[1] if x.is_cuda else max(1, CPU_VALUES // self.fc1.weight.shape[0])
        some = [self.fc2(self.fc1(piece)) for piece in torch.split(x, rows, dim=1)]
        return some[0] if len(some) == 1 else torch.cat(some, dim=1)


class Windows(nn.Module):
    """Which token each place of each window holds; places are counted window by window."""

    take: Tensor  # [windows, N]: token, or 0 for padding
    padding: Tensor  # places
    place: Tensor  # [T]: of each token

    def __init__(self, grids: Sequence[Grid], window: int, shift: int) -> None:
        super().__init__()
        token, kind = _tokens(grids, window, shift)
        self.kinds = (kind.bincount(minlength=4) if shift else torch.tensor([len(kind)])).tolist()
        token = token[kind.argsort(stable=True)]
        flat = token.flatten()
        place = torch.empty(sum(height * width for height, width in grids), dtype=torch.long)
        place[flat[flat >= 0]] = torch.arange(len(flat))[flat >= 0]
        self.register_buffer("take", token.clamp(min=0))
        self.register_buffer("padding", (flat < 0).nonzero().flatten())
        self.register_buffer("place", place)

    def ends(self, batch: int) -> list[int]:
        """Of each kind of window: how many windows there are up to its last one."""
        return [batch * sum(self.kinds[: kind + 1]) for kind in range(len(self.kinds))]

    def gather(self, x: Tensor, padding: Tensor) -> Tensor:
        """Tokens [B, T, C] to windows [windows * B, N, C]; `padding` [C] is what padding holds."""
        batch, tokens, channels = x.shape
        image = torch.arange(batch, device=x.device).view(-1, 1) * tokens
        token = (self.take.unsqueeze(1) + image).flatten()  # windows, images, N
        windows = x.reshape(-1, channels).index_select(0, token)
        if len(self.padding):
            windows[self._in_batch(self.padding, batch).flatten()] = padding
        return windows.view(-1, self.take.shape[1], channels)

    def scatter(self, windows: Tensor, shape: torch.Size) -> Tensor:
        """Undo `gather`: [windows * B * N, C] to tokens of `shape` [B, T, C]."""
        return windows.index_select(0, self._in_batch(self.place, shape[0]).flatten()).view(shape)

    def _in_batch(self, place: Tensor, batch: int) -> Tensor:
        """The places [B, P] of all images: image by image inside of each window."""
        tokens = self.take.shape[1]
        image = torch.arange(batch, device=place.device).view(-1, 1)
        return (place // tokens * batch + image) * tokens + place % tokens


def _tokens(grids: Sequence[Grid], window: int, shift: int) -> tuple[Tensor, Tensor]:
    """The token in each place [windows, N], -1 for padding; the kind [windows] of each window."""
    tokens, kinds, first = [], [], 0
    for height, width in grids:
        grid = torch.arange(first, first + height * width).view(height, width)
        grid = F.pad(grid, (0, -width % window, 0, -height % window), value=-1)
        tokens.append(partition(grid.roll((-shift, -shift), (0, 1))[None, ..., None], window))
        rows, columns = (side // window for side in grid.shape)
        bottom = (torch.arange(rows) == rows - 1).view(-1, 1)
        right = torch.arange(columns) == columns - 1
        kinds.append((2 * bottom + right).flatten())
        first += height * width
    return torch.cat(tokens).squeeze(2), torch.cat(kinds)


def _bias(block: SwinBlock) -> Tensor:
    """The relative position's bias, and the mask of each kind of window if there is a shift."""
    attention, window = block.attn, block.window
    bias = attention.relative_position_bias_table[attention.relative_position_index]
    bias = bias.permute(2, 0, 1).unsqueeze(0)  # [1, heads, N, N]
    if block.shift:
        four = bias.new_zeros(1, 2 * window, 2 * window, 1)  # a map of one window of each kind
        bias = bias + shift_mask(four, window).unsqueeze(1)
    return F.pad(bias, (0, -bias.shape[3] % ALIGNMENT))


def _half(side: int, step: int = 2) -> int:
    """A step's share of a side, rounded up."""
    return -(-side // step)
