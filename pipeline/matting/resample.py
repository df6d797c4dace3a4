"""A matte from the network's size to the picture's, in float, before anything is quantised.

Values of a reduced copy at single pixels of the full-size image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from cv2.typing import MatLike

    from bgpipe.pipeline.types import Plane

    Positions = npt.NDArray[np.intp]
    """[N]: row * width + column."""
    Floats = npt.NDArray[np.float32]


def resize(plane: Plane, height: int, width: int) -> Plane:
    """The plane [h, w] as [height, width].

    Enlarged along an axis it is bilinear between pixel centres (torch's align_corners=False);
    shrunk along one it is the mean over the area that a pixel covers, which cannot alias.
    """
    rows, columns = plane.shape
    shrunk = _resized(plane, min(rows, height), min(columns, width), cv2.INTER_AREA)
    return np.asarray(_resized(shrunk, height, width, cv2.INTER_LINEAR), np.float32)


def _resized(plane: MatLike, height: int, width: int, method: int) -> MatLike:
    if plane.shape == (height, width):
        return plane
    return cv2.resize(plane, (width, height), interpolation=method)


_REMAP_COLUMNS = 4096  # cv2.remap takes no side above 32767


def sample(reduced: Floats, pixels: Positions, shape: tuple[int, ...]) -> Floats:
    """[N, ...]: `reduced` [h, w, ...], bilinear, at pixels of an image of `shape`."""
    rows = -(-pixels.size // _REMAP_COLUMNS)
    y, x = np.divmod(np.resize(pixels, (rows, _REMAP_COLUMNS)), shape[1])
    columns, lines = (
        _source_positions(at, small / full)
        for at, small, full in zip((x, y), reduced.shape[1::-1], shape[1::-1], strict=True)
    )
    values = cv2.remap(reduced, columns, lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values, np.float32).reshape(-1, *reduced.shape[2:])[: pixels.size]


def _source_positions(at: Positions, scale: float) -> Floats:
    """Of the pixels' centres on the reduced copy."""
    return ((at + 0.5) * scale - 0.5).astype(np.float32)
