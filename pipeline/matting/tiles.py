"""A large image in overlapping tiles, and answers for tiles blended to one for the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Pixels, Plane

    Weights = npt.NDArray[np.float32]

STRIDE = 32
"""What the sides of a tile are multiples of."""
OVERLAP = 0.25
"""Share of a tile that its neighbour also sees, at least: a tile knows least about its border."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows and columns of an image, and how much of the answer there is this tile's.

    `down` [rows] and `across` [columns]: over all tiles that hold a pixel, their products add up to 1.
    """

    rows: slice
    columns: slice
    down: Weights
    across: Weights

    @staticmethod
    def padded(piece: Pixels) -> Pixels:
        """The tile's pixels with the last row and column repeated up to multiples of STRIDE."""
        height, width = piece.shape[:2]
        down, across = -height % STRIDE, -width % STRIDE
        border = cv2.copyMakeBorder(piece, 0, down, 0, across, cv2.BORDER_REPLICATE)
        return np.asarray(border, np.uint8)

    def accumulate(self, answer: Plane, total: Plane) -> None:
        """Blend what was answered for `padded` into the image's."""
        part = answer[: self.down.size, : self.across.size]
        total[self.rows, self.columns] += part * (self.down[:, None] * self.across)


def split_tiles(shape: tuple[int, int], size: tuple[int, int]) -> list[Tile]:
    """The tiles of an image of `shape` (height, width), of at most `size`, row by row."""
    down, across = (_tile_spans(*sides) for sides in zip(shape, size, strict=True))
    return [Tile(rows, columns, v, h) for rows, v in down for columns, h in across]


def _tile_spans(length: int, side: int) -> list[tuple[slice, Weights]]:
    """Evenly spread pieces of `side` along an axis, with their shares at each place."""
    if length <= side:
        return [(slice(0, length), np.ones(length, np.float32))]
    overlap = round(OVERLAP * side)
    count = -(-(length - overlap) // (side - overlap))
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    place = np.arange(side)
    ramp = np.minimum(np.minimum(place, place[::-1]) + 1, overlap).astype(np.float32)
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + side] += ramp
    pieces = (slice(start, start + side) for start in starts)
    return [(piece, ramp / total[piece]) for piece in pieces]
