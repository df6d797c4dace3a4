"""A matte refined by the fields of a preset, in pixels of the original image.

All is computed in float and quantized once, in the cutout. Tiles that are empty or solid as far as
any operation reaches are computed as a single pixel: most of a large image.
"""

import math
from collections.abc import Iterator
from itertools import product

import cv2
import numpy as np

from bgpipe.pipeline.matting.mask_enhancer import enhance
from bgpipe.pipeline.matting.morphology import dilate, erode, fill_holes, white_top_hat
from bgpipe.pipeline.types import Plane, Preset

HALF_LEVEL = 0.5 / 255  # a matte this close to 0 or 1 is quantized to it
MIN_SMOOTH = 1.0  # sigma of `smooth` without `blur`
STRAND_RADIUS = 4  # radius of a disc; thinner details count as strands of hair

_TILE = 512


def refine(matte: Plane, preset: Preset) -> Plane:
    """Apply the preset to a matte at full size: dilate, erode, blur, contrast, threshold, fill, invert.

    Enhancements come first. A preset without refinements returns the matte itself.
    """
    for step in preset.enhance:
        matte = enhance(matte, step)
    lengths = preset.dilate + preset.erode + _sigma(preset)
    if lengths or preset.contrast != 1 or preset.threshold:
        matte = _refine_tiles(matte, preset)
    if preset.fill_holes:
        matte = fill_holes(matte)
    return 1 - matte if preset.invert else matte


def _refine_tiles(matte: Plane, preset: Preset) -> Plane:
    refined, reach = np.empty_like(matte), _reach(preset)
    spans = (_split_axis(length, reach) for length in matte.shape)
    for (row, rows, inner_row), (column, columns, inner_column) in product(*spans):
        patch = matte[rows, columns]
        if patch.max() < HALF_LEVEL or patch.min() > 1 - HALF_LEVEL:
            refined[row, column] = _refine_patch(np.rint(patch[:1, :1]), preset)
        else:
            refined[row, column] = _refine_patch(patch, preset)[inner_row, inner_column]
    return refined


def _sigma(preset: Preset) -> float:
    return preset.blur or (MIN_SMOOTH if preset.smooth else 0.0)


def _reach(preset: Preset) -> int:
    """Return the distance at which a pixel can still change another."""
    blur = math.ceil(3 * _sigma(preset))
    strands = 2 * STRAND_RADIUS if preset.smooth else 0
    return math.ceil(preset.dilate) + math.ceil(preset.erode) + max(blur, strands)


def _split_axis(length: int, reach: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield each tile's span, the span with `reach` around it, and the first within the second."""
    for start in range(0, length, _TILE):
        stop, first = min(start + _TILE, length), max(start - reach, 0)
        around = slice(first, min(stop + reach, length))
        yield slice(start, stop), around, slice(start - first, stop - first)


def _refine_patch(patch: Plane, preset: Preset) -> Plane:
    patch = erode(dilate(patch, preset.dilate), preset.erode)
    if sigma := _sigma(preset):
        blurred = _blur_edges(patch, sigma)
        if preset.smooth:  # a Gaussian alone takes half of a hair's opacity
            blurred = np.maximum(blurred, white_top_hat(patch, STRAND_RADIUS))
        patch = blurred
    patch = np.clip(0.5 + np.float32(preset.contrast) * (patch - 0.5), 0, 1)
    return (patch > 0.5).astype(np.float32) if preset.threshold else patch


def _blur_edges(patch: Plane, sigma: float) -> Plane:
    """Blur by a Gaussian within three sigma of pixels that are neither empty nor solid."""
    size = 2 * math.ceil(3 * sigma) + 1
    soft = ((patch > HALF_LEVEL) & (patch < 1 - HALF_LEVEL)).astype(np.uint8)
    near = cv2.dilate(soft, np.ones((size, size), np.uint8))
    blurred = cv2.GaussianBlur(patch, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)
    return np.where(near, np.asarray(blurred, np.float32), patch)
