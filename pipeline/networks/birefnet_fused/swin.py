"""Swin for inference on images of known sizes: the outputs of birefnet/swin.py, faster.

Both scales of the image go through together, as one list of tokens. Shift, padding and partition
into windows are one gather, their inverse another, with indices made once. The shift's mask has
only four kinds (a window inside, at the bottom, at the right, in the corner), so windows are sorted
by kind, and bias and mask are one small tensor for each. Padding takes part as a key and is the
same everywhere, the bias of the projection; nothing is computed for it.
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
"""Rows and columns of tokens."""

ALIGNMENT = 16  # of the rows of a bias, in values: required by CUDA's attention
CPU_VALUES = 2**21  # hidden values of an MLP computed at once: they stay in the cache


class FusedSwin(nn.Module):
    """Images, a tensor [B, 3, H, W] for each of `sizes`, to four maps of each."""

    def __init__(self, swin: Swin, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.patch_embed = swin.patch_embed
        grids = [(_divide(height, PATCH), _divide(width, PATCH)) for height, width in sizes]
        stages = []
        for i in range(len(swin.layers)):
            stage = submodule(swin, f"layers.{i}", SwinStage)
            norm = submodule(swin, f"norm{i}", nn.LayerNorm)
            stages.append(FusedSwinStage(stage, norm, grids))
            grids = [(_divide(height), _divide(width)) for height, width in grids]
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return maps [B, embed * 2^i, H / (4 * 2^i), W / (4 * 2^i)], rounded up, of each image."""
        x = torch.cat([self.patch_embed(image).flatten(1, 2) for image in images], dim=1)
        stages = []
        for stage in self.stages:
            maps, x = stage(x)
            stages.append([each.permute(0, 3, 1, 2) for each in maps])
        return [list(maps) for maps in zip(*stages, strict=True)]


class FusedSwinStage(nn.Module):
    """Tokens [B, T, C] of all grids to their normalized maps and to the next stage's tokens."""

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
        return self._split(self.norm(x)), self._merge(x)

    def _split(self, x: Tensor) -> list[Tensor]:
        """Split tokens [B, T, C] into one map [B, H, W, C] for each grid."""
        parts = torch.split(x, [height * width for height, width in self.grids], dim=1)
        return [part.view(len(x), *grid, -1) for part, grid in zip(parts, self.grids, strict=True)]

    def _merge(self, x: Tensor) -> Tensor:
        if self.merging is None:
            return x
        return torch.cat([self.merging(part).flatten(1, 2) for part in self._split(x)], dim=1)


class FusedSwinBlock(nn.Module):
    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        self.shift = block.shift
        self.heads = block.attn.heads
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.qkv, self.proj = make_dense(block.attn.qkv), make_dense(block.attn.proj)
        self.fc1, self.fc2 = make_dense(block.mlp.fc1, "gelu"), make_dense(block.mlp.fc2)
        self.tokens = block.window**2
        self.register_buffer("bias", _make_bias(block))
        self.bias: Tensor  # [kinds, heads, N, N, rounded up]

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Transform tokens [B, T, C]."""
        qkv = self.qkv(self.norm1(x))
        inside = windows.gather(qkv, self.qkv.get_parameter("bias"))
        x = x + self.proj(windows.scatter(self._attend(inside, windows.ends(len(x))), x.shape))
        return x + self._mlp(self.norm2(x))

    def _attend(self, qkv: Tensor, ends: Sequence[int]) -> Tensor:
        """Attend in windows [windows * B, N, 3C], kind k before `ends[k]`: [windows * B * N, C]."""
        count, tokens, _ = qkv.shape
        q, k, v = qkv.view(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out, start = [], 0
        for bias, end in zip(self.bias[..., : self.tokens], ends, strict=True):
            if start < end:
                kind = slice(start, end)
                out.append(
                    F.scaled_dot_product_attention(
                        q[kind], k[kind], v[kind], attn_mask=bias.unsqueeze(0)
                    )
                )
            start = end
        rows = [heads.transpose(1, 2).flatten(2).flatten(0, 1) for heads in out]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _mlp(self, x: Tensor) -> Tensor:
        rows = x.shape[1] if x.is_cuda else max(1, CPU_VALUES // self.fc1.weight.shape[0])
        out = [self.fc2(self.fc1(piece)) for piece in torch.split(x, rows, dim=1)]
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)


class Windows(nn.Module):
    """Indices from tokens to slots of windows and back; slots are counted window by window."""

    token: Tensor  # [windows, N]: of each slot, 0 for padding
    padding: Tensor  # slots
    slot: Tensor  # [T]: of each token

    def __init__(self, grids: Sequence[Grid], window: int, shift: int) -> None:
        super().__init__()
        token, kind = _assign_tokens(grids, window, shift)
        self.kinds = (kind.bincount(minlength=4) if shift else torch.tensor([len(kind)])).tolist()
        token = token[kind.argsort(stable=True)]
        flat = token.flatten()
        slot = torch.empty(sum(height * width for height, width in grids), dtype=torch.long)
        slot[flat[flat >= 0]] = torch.arange(len(flat))[flat >= 0]
        self.register_buffer("token", token.clamp(min=0))
        self.register_buffer("padding", (flat < 0).nonzero().flatten())
        self.register_buffer("slot", slot)

    def ends(self, batch: int) -> list[int]:
        """Return for each kind the number of windows up to its last one."""
        return [batch * sum(self.kinds[: kind + 1]) for kind in range(len(self.kinds))]

    def gather(self, x: Tensor, padding: Tensor) -> Tensor:
        """Gather windows [windows * B, N, C] from tokens [B, T, C]; `padding` [C] fills the rest."""
        batch, tokens, channels = x.shape
        image = torch.arange(batch, device=x.device).view(-1, 1) * tokens
        token = (self.token.unsqueeze(1) + image).flatten()  # windows, images, N
        windows = x.reshape(-1, channels).index_select(0, token)
        if len(self.padding):
            windows[self._in_batch(self.padding, batch).flatten()] = padding
        return windows.view(-1, self.token.shape[1], channels)

    def scatter(self, windows: Tensor, shape: torch.Size) -> Tensor:
        """Undo `gather`: [windows * B * N, C] to tokens of `shape` [B, T, C]."""
        return windows.index_select(0, self._in_batch(self.slot, shape[0]).flatten()).view(shape)

    def _in_batch(self, slot: Tensor, batch: int) -> Tensor:
        """Return the slots [B, P] of all images, which are interleaved window by window."""
        tokens = self.token.shape[1]
        image = torch.arange(batch, device=slot.device).view(-1, 1)
        return (slot // tokens * batch + image) * tokens + slot % tokens


def _assign_tokens(grids: Sequence[Grid], window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Return the token of each slot [windows, N], -1 for padding, and each window's kind."""
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


def _make_bias(block: SwinBlock) -> Tensor:
    """Return the bias of relative positions, plus the mask of each kind of window if shifted."""
    attention, window = block.attn, block.window
    bias = attention.relative_position_bias_table[attention.relative_position_index]
    bias = bias.permute(2, 0, 1).unsqueeze(0)  # [1, heads, N, N]
    if block.shift:
        kinds = bias.new_zeros(1, 2 * window, 2 * window, 1)  # a map of one window of each kind
        bias = bias + shift_mask(kinds, window).unsqueeze(1)
    return F.pad(bias, (0, -bias.shape[3] % ALIGNMENT))


def _divide(side: int, step: int = 2) -> int:
    """Divide, rounded up."""
    return -(-side // step)
