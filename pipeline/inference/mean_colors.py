"""Blur fusion's means as a device computes them, at the network's size and beside it.

The same two passes as in foreground.py, on what the network sees and what it answers. Neighbourhoods
are a share of that size and not of the picture's, which the device does not know; on synthetic
scenes that serves small and large pictures alike (infra/docs/quality.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from bgpipe.pipeline.matting.foreground import EPSILON

if TYPE_CHECKING:
    from torch import Tensor

    Means = tuple[Tensor, Tensor]
    """Of the foreground and of the background, [B, 3, h, w]."""

SHARES = (90 / 1024, 6 / 1024)
"""Sides of the neighbourhoods of the two passes, by the longer side."""


def mean_colours(pixels: Tensor, matte: Tensor) -> Tensor:
    """Means of foreground and background around each pixel, uint8 [B, h, w, 6].

    pixels uint8 [B, h, w, 3], matte [B, h, w] in [0, 1], in float32.
    """
    image, a = pixels.permute(0, 3, 1, 2).float(), matte.unsqueeze(1)
    large, small = (_kernel(share * max(matte.shape[1:])) for share in SHARES)
    nothing = torch.zeros_like(image), torch.zeros_like(image)
    far = _weighted_means(image, image, a, large, instead=nothing)
    lacking = image - a * far[0] - (1 - a) * far[1]
    nearer = (far[0] + a * lacking).clamp(0, 255)
    means = _weighted_means(nearer, far[1], a, small, instead=far)
    return torch.cat(means, dim=1).round().byte().permute(0, 2, 3, 1).contiguous()


def _kernel(side: float) -> int:
    """Odd, so that nothing is shifted by half a pixel."""
    return 2 * round(side / 2) + 1


def _weighted_means(
    foreground: Tensor, background: Tensor, a: Tensor, kernel: int, *, instead: Means
) -> Means:
    """Means over the kernel; those of `instead` where it holds no foreground, or no background."""
    share = _box(a, kernel)
    return (
        (_box(foreground * a, kernel) + EPSILON * instead[0]) / (share + EPSILON),
        (_box(background * (1 - a), kernel) + EPSILON * instead[1]) / (1 - share + EPSILON),
    )


def _box(values: Tensor, kernel: int) -> Tensor:
    reach = kernel // 2
    padded = F.pad(values, (reach, reach, reach, reach), mode="reflect")
    rows = F.avg_pool2d(padded, (kernel, 1), stride=1)
    return F.avg_pool2d(rows, (1, kernel), stride=1)
