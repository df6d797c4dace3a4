"""Swin Transformer (Liu et al. 2021), the variant for dense prediction in BiRefNet.

Module names are those of the released checkpoints. Maps are channels last, [B, H, W, C], inside.
Every map is padded to whole windows, even one smaller than a window, and padded positions take part
as keys, as in the training of the checkpoints.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.config import SwinConfig

PATCH = 4
MLP_RATIO = 4


class Swin(nn.Module):
    """Image [B, 3, H, W] to four maps [B, embed * 2^i, H / (4 * 2^i), W / (4 * 2^i)], rounded up."""

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

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed(image)
        maps = []
        norms = (self.norm0, self.norm1, self.norm2, self.norm3)
        for layer, norm in zip(self.layers, norms, strict=True):
            out, x = layer(x)
            maps.append(norm(out).permute(0, 3, 1, 2))
        return maps


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

    Returns their output, and the input of the next stage.
    """

    def __init__(self, dim: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, shift=window // 2 if j % 2 else 0) for j in range(depth)
        )
        self.downsample = nn.Identity() if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = shift_mask(x, self.window)
        for block in self.blocks:
            x = block(x, mask)
        return x, self.downsample(x)


class SwinBlock(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x), mask)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = _pad_to(x, self.window)
        padded = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = self.attn(partition(x, self.window), mask if self.shift else None)
        x = merge(windows, self.window, padded)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]


class WindowAttention(nn.Module):
    """Self-attention inside each window with a learned bias for every relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend in windows [B * windows, N, C], N = window^2; add mask [windows, N, N] to scores."""
        count, tokens, dim = x.shape
        qkv = self.qkv(x).view(count, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B * windows, heads, N, C / heads]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(count, mask))
        out: Tensor = self.proj(x.transpose(1, 2).reshape(count, tokens, dim))
        return out

    def _bias(self, count: int, mask: Tensor | None) -> Tensor:
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.permute(2, 0, 1).unsqueeze(0)  # [1, heads, N, N]
        if mask is None:
            return bias.contiguous()
        bias = bias + mask.unsqueeze(1)  # [windows, heads, N, N]
        images = count // len(mask)
        return bias.expand(images, *bias.shape).flatten(0, 1)  # [B * windows, heads, N, N]


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PatchMerging(nn.Module):
    """[B, H, W, C] to [B, H / 2, W / 2, 2C], rounded up."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = _pad_to(x, 2)
        quarters = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        out: Tensor = self.reduction(self.norm(torch.cat(quarters, dim=-1)))
        return out


def relative_position_index(window: int) -> Tensor:
    """Return the row of the bias table for each (query, key) of a window, int64 [N, N]."""
    side = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def shift_mask(x: Tensor, window: int) -> Tensor:
    """Return 0 where two positions of a shifted window belong together in the map, else -inf.

    x [B, H, W, C] before padding; the mask is [windows, N, N]. The shift puts opposite edges of the
    map into one window; these regions must not attend to each other.
    """
    shift = window // 2
    rows, columns = (
        _region(_round_up(side, window), window, shift, x.device) for side in x.shape[1:3]
    )
    region = partition((3 * rows[:, None] + columns)[None, :, :, None], window)  # [windows, N, 1]
    apart = region != region.transpose(1, 2)
    return torch.zeros(apart.shape, dtype=x.dtype, device=x.device).masked_fill(apart, -torch.inf)


def partition(x: Tensor, window: int) -> Tensor:
    """Cut [B, H, W, C], multiples of `window`, into [B * windows, window^2, C]."""
    batch, height, width, dim = x.shape
    x = x.view(batch, height // window, window, width // window, window, dim)
    return x.transpose(2, 3).reshape(-1, window * window, dim)


def merge(windows: Tensor, window: int, shape: torch.Size) -> Tensor:
    """Undo `partition`; `shape` is [B, H, W, C]."""
    batch, height, width, dim = shape
    x = windows.view(batch, height // window, width // window, window, window, dim)
    return x.transpose(2, 3).reshape(shape)


def _region(side: int, window: int, shift: int, device: torch.device) -> Tensor:
    position = torch.arange(side, device=device)
    return (position >= side - window).long() + (position >= side - shift).long()


def _pad_to(x: Tensor, multiple: int) -> Tensor:
    bottom, right = (_round_up(side, multiple) - side for side in x.shape[1:3])
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
