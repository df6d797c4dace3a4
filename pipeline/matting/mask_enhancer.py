"""The mask enhancer of ComfyUI-RMBG, step for step, so that workflows with it give the same masks.

As in the node, blur and offset work on 8 bits, the blur is Pillow's, and smoothing and filling leave
nothing soft. A preset's own fields (refine.py) do better.
"""

import cv2
import numpy as np
from PIL import Image, ImageFilter

from bgpipe.config.presets import Enhancement
from bgpipe.pipeline.matting.resample import to_unit
from bgpipe.pipeline.types import Pixels, Plane


def enhance(mask: Plane, step: Enhancement) -> Plane:
    """Multiply, smooth, fill, blur, grow or shrink, invert, in this order."""
    mask = np.clip(mask * np.float32(2 - step.sensitivity), 0, 1)
    if step.smooth:
        mask = _smooth(mask, step.smooth)
    if step.fill_holes:
        mask = _fill_holes(mask)
    if step.mask_blur or step.mask_offset:
        blur = ImageFilter.GaussianBlur(step.mask_blur)
        levels = np.asarray(Image.fromarray(_to_levels(mask)).filter(blur))
        side = 2 * abs(step.mask_offset) + 1
        extreme = cv2.dilate if step.mask_offset > 0 else cv2.erode
        mask = to_unit(np.asarray(extreme(levels, np.ones((side, side), np.uint8)), np.uint8))
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
