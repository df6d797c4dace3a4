"""The edge of a matte solved again at full size by a matting network (networks/vitmatte.py).

A trimap marks the band around the edge; the image is split into overlapping tiles, those on the
band are solved, and their alphas are blended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bgpipe.pipeline.matting.resample import resize
from bgpipe.pipeline.types import Floats, Matte, Matting, Pixels, Plane

Solve = Callable[[Sequence[Pixels]], Sequence[Matte]]
"""From tiles uint8 [h, w, 4], RGB and trimap, all of one size, to their alphas [h, w]."""

BACKGROUND, UNKNOWN, SUBJECT = 0, 128, 255  # values of a trimap, uint8 [H, W]
CERTAIN = 0.05  # a matte this close to 0 or 1 is certain
STRIDE = 32  # the sides of a tile are multiples of it
OVERLAP = 0.25
"""Minimum share of a tile that its neighbor also covers: alpha is least exact at a tile's border."""
TILES_AT_ONCE = 16  # enough to fill a batch, and a bound on memory


def solve_edges(rgb: Pixels, matte: Plane, matting: Matting, solve: Solve) -> Plane:
    """Return the matte at the image's size: the alpha of `solve` around its edge, else 0 or 1.

    Only tiles on the edge are solved. A matte without a certain pixel of a subject, or without an
    edge, is only resized.
    """
    height, width, _ = rgb.shape
    full = resize(matte, height, width)
    trimap = make_trimap(full, matting.band)
    if not (trimap == SUBJECT).any() or not (trimap == UNKNOWN).any():
        return full
    solved = np.zeros_like(full)
    tiles = [
        tile
        for tile in split_tiles(full.shape, matting.size)
        if (trimap[tile.rows, tile.columns] == UNKNOWN).any()
    ]
    for start in range(0, len(tiles), TILES_AT_ONCE):
        group = tiles[start : start + TILES_AT_ONCE]
        mattes = solve([tile.cut(rgb, trimap) for tile in group])
        for tile, solution in zip(group, mattes, strict=True):
            tile.accumulate(solution.alpha, solved)
    return np.where(trimap == UNKNOWN, solved.clip(0, 1), trimap == SUBJECT).astype(np.float32)


def make_trimap(matte: Plane, band: float) -> Pixels:
    """Mark as unknown the pixels within `band`, a share of the longer side, of a soft one or an edge."""
    subject = matte > 0.5
    uncertain = (matte > CERTAIN) & (matte < 1 - CERTAIN)
    sides = subject.astype(np.uint8)
    uncertain |= cv2.morphologyEx(sides, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    trimap = np.where(subject, np.uint8(SUBJECT), np.uint8(BACKGROUND))
    if uncertain.any():  # else no distance is defined
        distance = cv2.distanceTransform((~uncertain).astype(np.uint8), cv2.DIST_L2, 3)
        trimap[distance <= band * max(matte.shape)] = UNKNOWN
    return trimap


@dataclass(frozen=True, slots=True)
class Tile:
    """Rows and columns of an image, with the weights of the tile's alpha.

    `row_weights` [rows] and `column_weights` [columns]: at each pixel, their products over all tiles
    add up to 1.
    """

    rows: slice
    columns: slice
    row_weights: Floats
    column_weights: Floats

    def cut(self, rgb: Pixels, trimap: Pixels) -> Pixels:
        """Return RGB and trimap uint8 [h, w, 4], the last row and column repeated up to STRIDE."""
        piece = np.dstack([rgb[self.rows, self.columns], trimap[self.rows, self.columns]])
        height, width = piece.shape[:2]
        below, right = -height % STRIDE, -width % STRIDE
        padded = cv2.copyMakeBorder(piece, 0, below, 0, right, cv2.BORDER_REPLICATE)
        return np.asarray(padded, np.uint8)

    def accumulate(self, alpha: Plane, total: Plane) -> None:
        """Add the weighted alpha of `cut` to the image's `total`."""
        piece = alpha[: self.row_weights.size, : self.column_weights.size]
        total[self.rows, self.columns] += piece * (self.row_weights[:, None] * self.column_weights)


def split_tiles(shape: tuple[int, ...], size: tuple[int, int]) -> list[Tile]:
    """Split an image of `shape` (height, width) into tiles of at most `size`, row by row."""
    rows, columns = (_split_axis(*sides) for sides in zip(shape, size, strict=True))
    return [Tile(row, column, v, h) for row, v in rows for column, h in columns]


def _split_axis(length: int, side: int) -> list[tuple[slice, Floats]]:
    """Return evenly spread spans of `side` with the weight of each of their pixels."""
    if length <= side:
        return [(slice(0, length), np.ones(length, np.float32))]
    overlap = round(OVERLAP * side)
    count = -(-(length - overlap) // (side - overlap))
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    position = np.arange(side)
    ramp = np.minimum(np.minimum(position, position[::-1]) + 1, overlap).astype(np.float32)
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + side] += ramp
    spans = (slice(start, start + side) for start in starts)
    return [(span, ramp / total[span]) for span in spans]
