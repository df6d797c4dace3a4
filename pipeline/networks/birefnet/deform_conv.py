"""Modulated deformable convolution (Zhu et al. 2019, Deformable ConvNets v2) in torch alone.

out(p) = sum over taps t of W_t * mask_t(p) * x(p + t + offset_t(p)), where x between pixels is
bilinear and 0 outside the image, corner by corner, as in torchvision, whose compiled operators are
not needed. One group, stride 1, no dilation, odd kernels, output as large as the input.

The map gets a border of zeros, and positions are clamped onto it, so that taps outside the image
are no special case.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Sampled values (outputs x taps x channels) held at a time. A CPU is fastest while they stay in
# its cache; on a GPU only the memory counts.
CPU_VALUES = 2**20
GPU_VALUES = 2**28
BORDER = (1, 2)  # zeros before and behind each axis: the neighbors of positions from -1 to the side


class DeformableConv(nn.Module):
    """Convolution whose sampling points and their weights are predicted from its own input."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        taps = kernel * kernel
        self.offset_conv = nn.Conv2d(inputs, 2 * taps, kernel, padding=kernel // 2)
        self.modulator_conv = nn.Conv2d(inputs, taps, kernel, padding=kernel // 2)
        self.regular_conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        for conv in (self.offset_conv, self.modulator_conv):  # start as a plain convolution
            for parameter in conv.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        mask = 2 * torch.sigmoid(self.modulator_conv(x))
        return deform_conv2d(x, self.offset_conv(x), mask, self.regular_conv.weight)


def deform_conv2d(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Convolve x [B, C, H, W] with weight [O, C, k, k] at displaced taps: [B, O, H, W].

    offset [B, 2 * k^2, H, W] in pixels: taps row by row, y then x of each; mask [B, k^2, H, W].
    """
    points = torch.cat([offset[:, 0::2], offset[:, 1::2], mask], dim=1).permute(0, 2, 3, 1)
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2)  # [k^2 * C, O]
    out = [columns @ matrix for columns in sample_bilinear(x, points)]
    return torch.cat(out, dim=1).permute(0, 3, 1, 2)


def sample_bilinear(x: Tensor, points: Tensor) -> Iterator[Tensor]:
    """Yield the values at the taps, some lines at a time: [B, lines, W, k^2 * C].

    points [B, H, W, 3 * k^2]: the taps' offsets along y, those along x, and their weights.
    """
    batch, channels, _, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *BORDER, *BORDER))  # [B, H + 3, W + 3, C]
    rows = padded.reshape(-1, channels)
    taps = points.shape[3] // 3
    values, weighted_sum = (
        (CPU_VALUES, sum_in_bags) if x.device.type == "cpu" else (GPU_VALUES, sum_gathered)
    )
    lines = max(1, values // (batch * width * taps * channels))
    for first in range(0, x.shape[2], lines):
        piece = points[:, first : first + lines]
        pixel, weight = _find_corners(piece, first, padded.shape)
        sampled = weighted_sum(rows, pixel, weight.to(x.dtype))
        yield sampled.view(*piece.shape[:3], taps * channels)


def _find_corners(points: Tensor, first: int, padded: torch.Size) -> tuple[Tensor, Tensor]:
    """Return the four pixels around each tap, of lines from `first` on, and their weights.

    Both [B * lines * W * k^2, 4]; the pixels index [B * (H + 3) * (W + 3)].
    """
    batch, lines, width, channels = points.shape
    taps, device = channels // 3, points.device
    kernel = round(taps**0.5)
    # Coordinates need float32: half precision has no fractions of a pixel beyond 1024.
    exact = points.to(torch.promote_types(points.dtype, torch.float32))
    dy, dx, mask = torch.split(exact, taps, dim=3)
    tap = torch.arange(taps, device=device)
    line = torch.arange(first, first + lines, device=device).view(-1, 1, 1)
    column = torch.arange(width, device=device).view(-1, 1)
    y, low = _split_position(dy + (line + tap // kernel - kernel // 2), padded[1] - sum(BORDER))
    x, left = _split_position(dx + (column + tap % kernel - kernel // 2), padded[2] - sum(BORDER))
    stride, area = padded[2], padded[1] * padded[2]
    # Clamped as integers: a NaN position must not become an invalid address.
    pixel = ((low + BORDER[0]) * stride + left + BORDER[0]).clamp(0, area - stride - 2)
    pixel = pixel + torch.arange(batch, device=device, dtype=pixel.dtype).view(-1, 1, 1, 1) * area
    lower, upper = y * mask, mask - y * mask
    weights = (upper - upper * x, upper * x, lower - lower * x, lower * x)
    pixels = (pixel, pixel + 1, pixel + stride, pixel + stride + 1)
    return torch.stack(pixels, dim=-1).view(-1, 4), torch.stack(weights, dim=-1).view(-1, 4)


def _split_position(position: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return each position's fraction on one axis, and the pixel below it, int32 in [-1, side]."""
    position = position.clamp(-1, side)
    low = position.floor()
    return position - low, low.int()


def sum_in_bags(rows: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Sum rows [N, C] over pixel [M, 4] with weight [M, 4]: [M, C]. The fastest on a CPU."""
    return F.embedding_bag(pixel, rows, mode="sum", per_sample_weights=weight)


def sum_gathered(rows: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Sum as `sum_in_bags`, in operations that are fast on a GPU and that torch.compile fuses."""
    out = rows[pixel[:, 0]] * weight[:, :1]
    for corner in range(1, 4):
        out = torch.addcmul(out, rows[pixel[:, corner]], weight[:, corner : corner + 1])
    return out
