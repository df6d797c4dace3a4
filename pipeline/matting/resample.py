"""Resampling of float planes: whole, and at single pixels of a larger image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from cv2.typing import MatLike

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
    shrunk = _resize(plane, min(rows, height), min(columns, width), cv2.INTER_AREA)
    return np.asarray(_resize(shrunk, height, width, cv2.INTER_LINEAR), np.float32)


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


def _resize(plane: MatLike, height: int, width: int, method: int) -> MatLike:
    if plane.shape == (height, width):
        return plane
    return cv2.resize(plane, (width, height), interpolation=method)
