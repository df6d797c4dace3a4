"""Values of a reduced copy at single pixels of the full-size image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Positions = npt.NDArray[np.intp]
    """[N]: row * width + column."""
    Floats = npt.NDArray[np.float32]

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
