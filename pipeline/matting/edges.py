"""The edge of a matte solved again at full size, from the picture's own pixels.

The network at hand is bgpipe.pipeline.vitmatte; here is what it sees and what is made of its answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.matting.resize import resize
from bgpipe.pipeline.matting.tiles import split_tiles
from bgpipe.pipeline.matting.trimap import SUBJECT, UNKNOWN, make_trimap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bgpipe.pipeline.matting.tiles import Tile
    from bgpipe.pipeline.matting.trimap import Trimap
    from bgpipe.pipeline.types import Matte, Matting, Pixels, Plane

    Solve = Callable[[Sequence[Pixels]], Sequence[Matte]]
    """From tiles uint8 [h, w, 4], RGB and trimap, all of one size, to their alphas [h, w]."""

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
