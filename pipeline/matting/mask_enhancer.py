"""The mask enhancer of ComfyUI-RMBG, step for step, so that workflows with it give the same masks.

As in the node, blur and offset work on 8 bits, and smoothing and filling leave nothing soft. A
preset's own fields (refine.py) do better.
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
"""Box filters that approximate a Gaussian."""
WHOLE = 1 << 24
"""One, in the fixed-point weights of a box."""
BLOCK = 1 << 20
"""Pixels filtered at once: in 64 bits they take eight times their memory."""


def enhance(mask: Plane, step: Enhancement) -> Plane:
    """Multiply, smooth, fill, blur, grow or shrink, invert, in this order."""
    mask = np.clip(mask * np.float32(2 - step.sensitivity), 0, 1)
    if step.smooth:
        mask = _smooth(mask, step.smooth)
    if step.fill_holes:
        mask = _fill_holes(mask)
    if step.mask_blur or step.mask_offset:
        levels = _blur(_to_levels(mask), step.mask_blur)
        side = 2 * abs(step.mask_offset) + 1
        extreme = cv2.dilate if step.mask_offset > 0 else cv2.erode
        levels = np.asarray(extreme(levels, np.ones((side, side), np.uint8)), np.uint8)
        mask = levels.astype(np.float32) / np.float32(255)
    return np.asarray(1 - mask if step.invert else mask, np.float32)


def _to_levels(mask: Plane) -> Levels:
    return np.asarray(mask * np.float32(255), np.uint8)


def _smooth(mask: Plane, sigma: float) -> Plane:
    from scipy import ndimage  # a tenth of a second, which few jobs need

    solid = (mask > 0.5).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(solid, sigma) > 0.5, np.float32)


def _fill_holes(mask: Plane) -> Plane:
    """Make opaque all pixels that are not empty, and every hole between them."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(_to_levels(mask) > 0), np.float32)


def _blur(levels: Levels, sigma: int) -> Levels:
    """Blur by a Gaussian of extended boxes, along rows, then along columns.

    Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, 2011;
    rounded to 8 bits after every box.
    """
    if not sigma:
        return levels
    for _ in range(2):
        for _ in range(BOXES):
            levels = _filter_box(levels, _box_radius(sigma))
        levels = np.ascontiguousarray(levels.T)
    return levels


def _box_radius(sigma: float) -> float:
    """Return whole part and share of the outermost pixels (equations 7, 11 and 14)."""
    variance = sigma * sigma / BOXES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + share / (6 * (variance - (whole + 1) ** 2))


def _filter_box(levels: Levels, radius: float) -> Levels:
    """Return means along each row; beyond the border its last pixel is repeated."""
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
