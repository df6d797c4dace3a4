"""Modulated deformable convolution (Zhu et al. 2019, Deformable ConvNets v2) in torch alone.

out(p) = sum over taps t of W_t * mask_t(p) * x(p + t + offset_t(p)), where x between pixels is
bilinear and 0 outside the image, corner by corner: what torchvision computes, without its
compiled operators. One group, stride 1, no dilation, odd kernels, output as large as the input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Sampled values (outputs x taps x channels) held at a time. A CPU is fastest while they stay in
# its cache; on a GPU only the memory counts.
CPU_VALUES = 2**21
GPU_VALUES = 2**28


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
    batch, channels, height, width = x.shape
    taps = mask.shape[1]
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    matrix = weight.permute(2, 3, 1, 0).reshape(taps * channels, -1)
    values, sample = (CPU_VALUES, bag_sum) if x.device.type == "cpu" else (GPU_VALUES, gather_sum)
    lines = max(1, values // (batch * width * taps * channels))
    chunks = []
    for first in range(0, height, lines):
        pixel, share = _corners(offset, mask, first, lines)
        columns = sample(rows, pixel, share.to(x.dtype)).view(-1, taps * channels)
        chunks.append((columns @ matrix).view(batch, -1, width, matrix.shape[1]))
    return torch.cat(chunks, dim=1).permute(0, 3, 1, 2)


def _corners(offset: Tensor, mask: Tensor, first: int, lines: int) -> tuple[Tensor, Tensor]:
    """Of lines [first, first + lines): the four pixels around each tap and their weights.

    Both [B * lines * W * k^2, 4]; the pixels index [B * H * W], corners outside weigh 0.
    """
    batch, taps, height, width = mask.shape
    kernel = round(taps**0.5)
    device = mask.device
    # Coordinates need float32: half precision holds no fractions of a pixel beyond 1024.
    exact = torch.promote_types(offset.dtype, torch.float32)
    offset = offset[:, :, first : first + lines].to(exact).permute(0, 2, 3, 1)
    mask = mask[:, :, first : first + lines].to(exact).permute(0, 2, 3, 1)
    tap = torch.arange(taps, device=device)
    line = torch.arange(first, first + offset.shape[1], device=device).view(-1, 1, 1)
    column = torch.arange(width, device=device).view(-1, 1)
    y, wy = _neighbours(offset[..., 0::2] + (line + tap // kernel - kernel // 2), height)
    x, wx = _neighbours(offset[..., 1::2] + (column + tap % kernel - kernel // 2), width)
    image = torch.arange(batch, device=device).view(-1, 1, 1, 1, 1, 1) * (height * width)
    pixel = image + y.unsqueeze(-1) * width + x.unsqueeze(-2)  # [B, lines, W, taps, 2, 2]
    weight = wy.unsqueeze(-1) * (wx * mask.unsqueeze(-1)).unsqueeze(-2)
    return pixel.view(-1, 4), weight.view(-1, 4)


def _neighbours(position: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The two pixels around each position on one axis and their weights, both [..., 2]."""
    low = position.floor()
    fraction = position - low
    pixel = torch.stack((low, low + 1), dim=-1)
    weight = torch.stack((1 - fraction, fraction), dim=-1)
    inside = (pixel >= 0) & (pixel < side)
    # Clamped as integers: a position that is not a number must not become a wild address.
    return pixel.long().clamp(0, side - 1), weight * inside


def bag_sum(rows: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Sum of rows [N, C] over pixel [M, 4] with weight [M, 4]: [M, C]. The fastest on a CPU."""
    return F.embedding_bag(pixel, rows, mode="sum", per_sample_weights=weight)


def gather_sum(rows: Tensor, pixel: Tensor, weight: Tensor) -> Tensor:
    """Do as `bag_sum`, in operations that a GPU does well and torch.compile fuses."""
    out = rows[pixel[:, 0]] * weight[:, :1]
    for corner in range(1, 4):
        out = torch.addcmul(out, rows[pixel[:, corner]], weight[:, corner : corner + 1])
    return out
