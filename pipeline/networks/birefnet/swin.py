"""Swin Transformer (Liu et al. 2021), the variant for dense prediction in BiRefNet.

Module names are those of the released checkpoints. Images of several sizes go through together, as
one list of tokens. Shift, padding and partition into windows are one gather, their inverse another.
The shift's mask has only four kinds (a window inside, at the right, at the bottom, in the corner), so
windows are sorted by kind, and bias and mask are one small tensor for each. Every map is padded to
whole windows, even one smaller than a window, and padding takes part as a key, as in the training of
the checkpoints: it is the same everywhere, the bias of the projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.config import SwinConfig
from bgpipe.pipeline.networks.birefnet.kernels import (
    ModuleWithKernel,
    linear_gelu,
    window_attention,
)
from bgpipe.pipeline.networks.birefnet.layers import DenseLayer

PATCH = 4
MLP_RATIO = 4
ALIGNMENT = 16  # of the rows of a bias, in values: required by CUDA's attention
CPU_VALUES = 2**21  # hidden values of an MLP computed at once: they stay in the cache
APART = -100.0
"""The bias between what must not attend. Finite: fused attention on GPUs has returned NaN for blocks of
-inf alone. After the softmax it is 0 like -inf."""

Grid = tuple[int, int]
"""Rows and columns of tokens."""


class Swin(nn.Module):
    """Images [B, 3, H, W] to four maps of each [B, embed * 2^i, H / (4 * 2^i), W / (4 * 2^i)], rounded up."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.embed)
        self.layers = nn.ModuleList(
            SwinStage(dim, depth, heads, config.window, last=i == 3)
            for i, (dim, depth, heads) in enumerate(
                zip(config.stages, config.depths, config.heads, strict=True)
            )
        )
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d) for d in config.stages)
        self.apply(_initialize)

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        x = torch.cat([self.patch_embed(image).flatten(1, 2) for image in images], dim=1)
        grids = [_divide(image.shape[2:], PATCH) for image in images]
        maps = []
        for i, stage in enumerate(self.layers):
            out, x = stage(x, grids)
            normalized = _split(getattr(self, f"norm{i}")(out), grids)
            maps.append([part.permute(0, 3, 1, 2) for part in normalized])
            grids = [_divide(grid) for grid in grids]
        return [list(each) for each in zip(*maps, strict=True)]

    def fix_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Compute what depends on the images' (height, width) or on weights alone, once for all."""
        grids = [_divide(size, PATCH) for size in sizes]
        for module in list(self.modules()):
            if isinstance(module, SwinStage):
                module.windows = module.make_windows(grids)
                grids = [_divide(grid) for grid in grids]
            elif isinstance(module, WindowAttention):
                module.bias = module.make_bias()
                del module.relative_position_bias_table, module.relative_position_index


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return x  # [B, H / 4, W / 4, dim]


class SwinStage(nn.Module):
    """Blocks at one resolution; every second one has its windows shifted by half a window.

    Tokens [B, T, C] of all grids to their output, and to the input of the next stage.
    """

    def __init__(self, dim: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        self.window = window
        self.windows: nn.ModuleList | None = None
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, shift=window // 2 if j % 2 else 0) for j in range(depth)
        )
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor, grids: Sequence[Grid]) -> tuple[Tensor, Tensor]:
        windows = self.windows
        if windows is None:
            windows = self.make_windows(grids).to(x.device)
        in_batch = [each(len(x)) for each in windows]
        for j, block in enumerate(self.blocks):
            x = block(x, in_batch[j % 2])
        if self.downsample is None:
            return x, x
        merged = [self.downsample(part).flatten(1, 2) for part in _split(x, grids)]
        return x, torch.cat(merged, dim=1)

    def make_windows(self, grids: Sequence[Grid]) -> nn.ModuleList:
        """Return the windows of even and of odd blocks."""
        return nn.ModuleList(Windows(grids, self.window, s) for s in (0, self.window // 2))


class SwinBlock(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor, windows: BatchWindows) -> Tensor:
        x = x + self.attn(self.norm1(x), windows)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class WindowAttention(ModuleWithKernel):
    """Self-attention inside each window with a learned bias for every relative position."""

    relative_position_index: Tensor
    bias: Tensor | None

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.register_buffer("bias", None)
        self.qkv = DenseLayer(dim, 3 * dim)
        self.proj = DenseLayer(dim, dim)

    def forward(self, x: Tensor, windows: BatchWindows) -> Tensor:
        bias = self.make_bias() if self.bias is None else self.bias
        if self.kernel:
            token, kind = windows.of_one
            attended = window_attention(self.qkv(x), self.qkv.bias, token, kind, bias)
        else:
            attended = self._attend(self.qkv(x), windows, bias)
        out: Tensor = self.proj(attended)
        return out

    def _attend(self, qkv: Tensor, windows: BatchWindows, bias: Tensor) -> Tensor:
        """Return [B, T, C] of qkv [B, T, 3C]."""
        batch, size, _ = qkv.shape
        qkv = windows.gather(qkv, self.qkv.bias)  # [windows * B, N, 3C]
        count, tokens, _ = qkv.shape
        q, k, v = qkv.view(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = [
            F.scaled_dot_product_attention(q[kind], k[kind], v[kind], attn_mask=each.unsqueeze(0))
            for each, kind in zip(bias[..., :tokens], windows.kinds, strict=True)
            if kind.start < kind.stop
        ]
        rows = _join([heads.transpose(1, 2).flatten(2).flatten(0, 1) for heads in out], dim=0)
        return rows.index_select(0, windows.slot).view(batch, size, -1)

    def make_bias(self) -> Tensor:
        """Return [kinds, heads, N, N, rounded up]: the bias, plus each kind's mask if shifted."""
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.permute(2, 0, 1).unsqueeze(0)
        if self.shift:
            # The shift puts opposite edges of the map into one window: they must not attend.
            edge = torch.arange(self.window, device=bias.device) >= self.window - self.shift
            kinds = [
                2 * (edge & bottom)[:, None] + (edge & right)
                for bottom in (False, True)
                for right in (False, True)
            ]
            region = torch.stack(kinds).flatten(1)  # [kinds, N]
            apart = region[:, :, None] != region[:, None]
            bias = bias.masked_fill(apart.unsqueeze(1), APART)
        return F.pad(bias, (0, -bias.shape[3] % ALIGNMENT))


class Mlp(ModuleWithKernel):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = DenseLayer(dim, MLP_RATIO * dim, "gelu")
        self.fc2 = DenseLayer(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel:
            out: Tensor = self.fc2(linear_gelu(x, self.fc1.weight, self.fc1.bias))
            return out
        on_cpu = x.device.type == "cpu"
        rows = max(1, CPU_VALUES // self.fc1.out_features) if on_cpu else x.shape[1]
        return _join([self.fc2(self.fc1(part)) for part in torch.split(x, rows, dim=1)], dim=1)


class PatchMerging(nn.Module):
    """[B, H, W, C] to [B, H / 2, W / 2, 2C], rounded up."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        quarters = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        out: Tensor = self.reduction(self.norm(torch.cat(quarters, dim=-1)))
        return out


class BatchWindows(NamedTuple):
    """Indices between tokens and slots of windows, for a batch whose images alternate window by window."""

    token: Tensor  # [windows * B * N]: of each slot, any for padding
    padding: Tensor  # [P]: slots
    slot: Tensor  # [B * T]: of each token
    kinds: list[slice]
    """The windows of each kind."""
    of_one: tuple[Tensor, Tensor]
    """Of one image, each slot's token [windows, N], -1 for padding, and each window's kind [windows]."""

    def gather(self, x: Tensor, padding: Tensor) -> Tensor:
        """Gather windows [windows * B, N, C] from tokens [B, T, C]; `padding` [C] fills the rest."""
        windows = x.reshape(-1, x.shape[2]).index_select(0, self.token)
        if len(self.padding):
            windows[self.padding] = padding
        return windows.view(-1, self.of_one[0].shape[1], x.shape[2])


class Windows(nn.Module):
    """The windows of one image; slots are counted window by window."""

    token: Tensor  # [windows, N]: of each slot, -1 for padding
    kind: Tensor  # [windows], ascending
    padding: Tensor  # [P]: slots
    padding_start: Tensor  # [P]: the first slot of its window
    slot: Tensor  # [T]: of each token
    slot_start: Tensor  # [T]: the first slot of its window

    def __init__(self, grids: Sequence[Grid], window: int, shift: int) -> None:
        super().__init__()
        tokens, kinds, first = [], [], 0
        for height, width in grids:
            grid = torch.arange(first, first + height * width).view(height, width)
            grid = F.pad(grid, (0, -width % window, 0, -height % window), value=-1)
            grid = grid.roll((-shift, -shift), (0, 1))
            cut = grid.unfold(0, window, window).unfold(1, window, window)
            bottom, right = (torch.arange(count) == count - 1 for count in cut.shape[:2])
            tokens.append(cut.reshape(-1, window**2))
            kinds.append((2 * bottom[:, None] + right).flatten())
            first += height * width
        kind = torch.cat(kinds)
        self.counts = (kind.bincount(minlength=4) if shift else torch.tensor([len(kind)])).tolist()
        token = torch.cat(tokens)[kind.argsort(stable=True)]
        flat = token.flatten()
        slot = torch.empty(first, dtype=torch.long)
        slot[flat[flat >= 0]] = torch.arange(len(flat))[flat >= 0]
        self.register_buffer("token", token)
        self.register_buffer("kind", kind.sort().values if shift else torch.zeros_like(kind))
        for name, slots in (("padding", (flat < 0).nonzero().flatten()), ("slot", slot)):
            self.register_buffer(name, slots)
            self.register_buffer(f"{name}_start", slots // window**2 * window**2)

    def forward(self, batch: int) -> BatchWindows:
        """Return the indices for a batch of so many images."""
        tokens, device = self.token.shape[1], self.token.device
        ends = accumulate((batch * count for count in self.counts), initial=0)
        image = torch.arange(0, batch * len(self.slot), len(self.slot), device=device).view(-1, 1)
        window = torch.arange(0, batch * tokens, tokens, device=device).view(-1, 1)
        padding, slot = (
            (torch.add(slots, start, alpha=batch - 1) + window).flatten()
            for slots, start in (
                (self.padding, self.padding_start),
                (self.slot, self.slot_start),
            )
        )
        kinds = [slice(start, stop) for start, stop in pairwise(ends)]
        token = (self.token.clamp(min=0).unsqueeze(1) + image).flatten()
        return BatchWindows(token, padding, slot, kinds, (self.token, self.kind))


def relative_position_index(window: int) -> Tensor:
    """Return the row of the bias table for each (query, key) of a window, int64 [N, N]."""
    side = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def _split(x: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
    """Split tokens [B, T, C] into one map [B, H, W, C] for each grid."""
    parts = torch.split(x, [height * width for height, width in grids], dim=1)
    return [part.view(len(x), *grid, -1) for part, grid in zip(parts, grids, strict=True)]


def _join(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenate, without a copy of a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _divide(size: Sequence[int], step: int = 2) -> Grid:
    """Divide height and width, rounded up."""
    height, width = size
    return -(-height // step), -(-width // step)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
