"""The mask enhancer of ComfyUI-RMBG, step for step, so that workflows with it give the same masks.

As in the node, blur and offset work on 8 bits, and smoothing and filling leave nothing soft. A
preset's own fields (refine.py) do better.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bgpipe.pipeline.matting.resample import to_unit

if TYPE_CHECKING:
    from bgpipe.config.presets import Enhancement
    from bgpipe.pipeline.types import Pixels, Plane

BOXES = 3
"""Box filters that approximate a Gaussian."""
WHOLE = 1 << 24
"""One, in the fixed-point weights of a box."""


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
        mask = to_unit(levels)
    return np.asarray(1 - mask if step.invert else mask, np.float32)


def _to_levels(mask: Plane) -> Pixels:
    return np.asarray(mask * np.float32(255), np.uint8)


def _smooth(mask: Plane, sigma: float) -> Plane:
    from scipy import ndimage  # a tenth of a second, which few jobs need

    solid = (mask > 0.5).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(solid, sigma) > 0.5, np.float32)


def _fill_holes(mask: Plane) -> Plane:
    """Make opaque all pixels that are not empty, and every hole between them."""
    from scipy import ndimage

    return np.asarray(ndimage.binary_fill_holes(_to_levels(mask) > 0), np.float32)


def _blur(levels: Pixels, sigma: int) -> Pixels:
    """Blur by a Gaussian of extended boxes, along rows, then along columns.

    Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, 2011,
    whose equations 7, 11 and 14 give a box; rounded to 8 bits after every one.
    """
    if not sigma:
        return levels
    variance = sigma * sigma / BOXES
    reach = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    share = (2 * reach + 1) * (reach * (reach + 1) - 3 * variance)
    radius = reach + share / (6 * (variance - (reach + 1) ** 2))  # a share of the outermost pixels
    for _ in range(2):
        for _ in range(BOXES):
            levels = _filter_box(levels, radius)
        levels = np.ascontiguousarray(levels.T)
    return levels


def _filter_box(levels: Pixels, radius: float) -> Pixels:
    """Return means along each row; beyond the border its last pixel is repeated."""
    whole = 2 * math.floor(radius) + 1
    inner = int(np.float32(WHOLE) / np.float32(2 * radius + 1))
    outer = (WHOLE - whole * inner) // 2
    narrow, wide = (
        np.asarray(
            cv2.boxFilter(
                levels, cv2.CV_32S, (side, 1), normalize=False, borderType=cv2.BORDER_REPLICATE
            )
        ).view(np.uint32)
        for side in (whole, whole + 2)
    )
    wide -= narrow
    wide *= outer
    narrow *= inner
    narrow += wide
    narrow += WHOLE // 2  # the sum is below 2**32
    return (narrow // WHOLE).astype(np.uint8)
