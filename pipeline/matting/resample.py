"""Resampling of float planes: whole, and at single pixels of a larger image."""

import cv2
import numpy as np
import numpy.typing as npt

from bgpipe.pipeline.types import Floats, Pixels, Plane

Positions = npt.NDArray[np.intp]
"""[N]: row * width + column."""

_REMAP_COLUMNS = 4096  # cv2.remap takes sides up to 32767


def to_unit(levels: Pixels) -> Floats:
    """Return uint8 as float32 in [0, 1]."""
    return levels.astype(np.float32) / np.float32(255)


def resize(plane: Plane, height: int, width: int) -> Plane:
    """Resize the plane [h, w] to [height, width].

    Enlarging an axis is bilinear between pixel centers (torch's align_corners=False); shrinking
    takes the mean over the area that a pixel covers, which cannot alias.
    """
    rows, columns = plane.shape
    least = (min(columns, width), min(rows, height))
    shrunk = cv2.resize(plane, least, interpolation=cv2.INTER_AREA)
    full = cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full, np.float32)


def shrink(plane: Plane, side: int) -> Plane:
    """Resize the plane to at most `side` pixels along each axis, without keeping its aspect."""
    return resize(plane, *(min(length, side) for length in plane.shape))


def sample(reduced: Floats, pixels: Positions, shape: tuple[int, ...]) -> Floats:
    """Sample `reduced` [h, w, ...] bilinearly at pixels of an image of `shape`; returns [N, ...]."""
    rows = -(-pixels.size // _REMAP_COLUMNS)
    y, x = np.divmod(np.resize(pixels, (rows, _REMAP_COLUMNS)), shape[1])
    columns, lines = (  # of the pixels' centers in the reduced copy
        ((axis + 0.5) * (small / full) - 0.5).astype(np.float32)
        for axis, small, full in zip((x, y), reduced.shape[1::-1], shape[1::-1], strict=True)
    )
    values = cv2.remap(reduced, columns, lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32).reshape(-1, *reduced.shape[2:])[: pixels.size]
