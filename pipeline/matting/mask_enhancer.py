"""The mask enhancer of ComfyUI-RMBG, step for step, so that its users' numbers mean what they meant.

Its blur and its offset work on 8 bits, and its smoothing and filling leave nothing soft: that is
how the node is. A preset's own fields (refine.py) do better; a workflow with the node's named inputs
gets the node.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.config.presets import Enhancement
    from bgpipe.pipeline.types import Plane

    Levels = npt.NDArray[np.uint8]
    """uint8 [H, W]."""

BOXES = 3
"""Box filters that stand for a Gaussian."""
WHOLE = 1 << 24
"""One, in the fixed-point weights of a box."""
BLOCK = 1 << 20
"""Pixels that a box is computed for at once: in 64 bits they take eight times their room."""


def enhance(mask: Plane, step: Enhancement) -> Plane:
    """Multiply, smooth, fill, blur, grow or shrink, invert, in this order."""
    mask = np.clip(mask * np.float32(2 - step.sensitivity), 0, 1)
    if step.smooth:
        mask = _smoothed(mask, step.smooth)
    if step.fill_holes:
        mask = _filled(mask)
    if step.mask_blur or step.mask_offset:
        levels = _offset(_blurred(_levels(mask), step.mask_blur), step.mask_offset)
        mask = levels.astype(np.float32) / np.float32(255)
    return np.asarray(1 - mask if step.invert else mask, np.float32)


def _levels(mask: Plane) -> Levels:
    return np.asarray(mask * np.float32(255), np.uint8)


def _smoothed(mask: Plane, sigma: float) -> Plane:
    from scipy import ndimage  # a tenth of a second, which few jobs need

    solid = (mask > 0.5).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(solid, sigma) > 0.5, np.float32)


def _filled(mask: Plane) -> Plane:
    """Opaque wherever the mask is not empty, and in every hole of that."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(_levels(mask) > 0), np.float32)


def _offset(levels: Levels, pixels: int) -> Levels:
    """The largest value of the square that reaches so far, or the smallest."""
    side = 2 * abs(pixels) + 1
    extreme = cv2.dilate if pixels > 0 else cv2.erode
    return np.asarray(extreme(levels, np.ones((side, side), np.uint8)), np.uint8)


def _blurred(levels: Levels, sigma: int) -> Levels:
    """Gaussian by extended boxes, along rows, then along columns.

    Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, 2011;
    rounded to 8 bits after every box.
    """
    if not sigma:
        return levels
    for _ in range(2):
        for _ in range(BOXES):
            levels = _boxed(levels, _box_radius(sigma))
        levels = np.ascontiguousarray(levels.T)
    return levels


def _box_radius(sigma: float) -> float:
    """Whole part and share of the outermost pixels, by their equations 7, 11 and 14."""
    variance = sigma * sigma / BOXES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + share / (6 * (variance - (whole + 1) ** 2))


def _boxed(levels: Levels, radius: float) -> Levels:
    """Means along each row; beyond the border its last pixel goes on."""
    reach = math.floor(radius)
    inner = int(np.float32(WHOLE) / np.float32(2 * radius + 1))
    outer = (WHOLE - (2 * reach + 1) * inner) // 2
    out = np.empty_like(levels)
    rows = max(1, BLOCK // levels.shape[1])
    for top in range(0, len(levels), rows):
        padded = np.pad(levels[top : top + rows], ((0, 0), (reach + 1, reach + 1)), mode="edge")
        sums = np.cumsum(padded, axis=1, dtype=np.int64)
        within = sums[:, 2 * reach + 1 : -1] - sums[:, : -2 * reach - 2]
        ends = padded[:, : -2 * reach - 2].astype(np.int64) + padded[:, 2 * reach + 2 :]
        out[top : top + rows] = (within * inner + ends * outer + WHOLE // 2) // WHOLE
    return out
