"""What a matte is sure of, and the band around its edge where another network has to look again.

A large image in overlapping tiles, and answers for tiles blended to one for the image.

The edge of a matte solved again at full size, from the picture's own pixels.

The network at hand is bgpipe.pipeline.networks.vitmatte; here is what it sees and what is made of its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bgpipe.pipeline.matting.resample import resize

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Plane

    Trimap = npt.NDArray[np.uint8]
    """uint8 [H, W] of BACKGROUND, UNKNOWN and SUBJECT."""
    from bgpipe.pipeline.types import Pixels

    Weights = npt.NDArray[np.float32]
    from collections.abc import Callable, Sequence

    # MOVED
    from bgpipe.pipeline.types import Matte, Matting

    Solve = Callable[[Sequence[Pixels]], Sequence[Matte]]
    """From tiles uint8 [h, w, 4], RGB and trimap, all of one size, to their alphas [h, w]."""

BACKGROUND, UNKNOWN, SUBJECT = 0, 128, 255
CERTAIN = 0.05
"""A matte this close to 0 or 1 is sure of itself."""


def make_trimap(matte: Plane, band: float) -> Trimap:
    """Unknown is what lies within `band`, a share of the longer side, of a soft pixel or an edge."""
    subject = matte > 0.5
    sides = subject.astype(np.uint8)
    unsure = (matte > CERTAIN) & (matte < 1 - CERTAIN)
    unsure |= cv2.morphologyEx(sides, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    trimap = np.where(subject, np.uint8(SUBJECT), np.uint8(BACKGROUND))
    if unsure.any():  # else every distance would be to nothing
        distance = cv2.distanceTransform((~unsure).astype(np.uint8), cv2.DIST_L2, 3)
        trimap[distance <= band * max(matte.shape)] = UNKNOWN
    return trimap


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


AT_ONCE = 16
"""Tiles handed in together: enough to fill a batch, and a bound on memory."""


def solve_edges(rgb: Pixels, matte: Plane, matting: Matting, solve: Solve) -> Plane:
    """The matte at the picture's size; in the band around its edge as `solve` answers, else 0 or 1.

    Only tiles that hold a piece of the band are handed in. Where the matte is sure of no pixel of a
    subject, or has no edge, there is nothing to go by: it comes back as it is, at full size.
    """
    height, width, _ = rgb.shape
    full = resize(matte, height, width)
    trimap = make_trimap(full, matting.band)
    if not (trimap == SUBJECT).any() or not (trimap == UNKNOWN).any():
        return full
    solved = np.zeros_like(full)
    with_edge = [
        tile for tile in split_tiles((height, width), matting.size) if _has_edge(tile, trimap)
    ]
    for start in range(0, len(with_edge), AT_ONCE):
        some = with_edge[start : start + AT_ONCE]
        answers = solve([_tile_pixels(tile, rgb, trimap) for tile in some])
        for tile, answer in zip(some, answers, strict=True):
            tile.accumulate(answer.alpha, solved)
    return np.where(trimap == UNKNOWN, solved.clip(0, 1), trimap == SUBJECT).astype(np.float32)


def _has_edge(tile: Tile, trimap: Trimap) -> bool:
    return bool((trimap[tile.rows, tile.columns] == UNKNOWN).any())


def _tile_pixels(tile: Tile, rgb: Pixels, trimap: Trimap) -> Pixels:
    piece = np.dstack([rgb[tile.rows, tile.columns], trimap[tile.rows, tile.columns]])
    return tile.padded(piece)
