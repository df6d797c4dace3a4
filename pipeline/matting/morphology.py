"""Grey morphology with discs of any radius, and holes.

The disc of radius r holds the pixels whose centres lie within r of the middle's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from cv2.typing import MatLike

    from bgpipe.pipeline.types import Plane

    Element = npt.NDArray[np.uint8]
    Labels = npt.NDArray[np.int32]
    Flags = npt.NDArray[np.bool_]

LARGEST_HOLE = 0.01
"""Share of the subject's area: more is a part of its shape, such as the inside of a handle."""
RIMS = (0.95, 1 - 0.5 / 255)
"""Levels up to which the soft rim of a hole is filled with it, as far as it is a rim and no more."""
LARGEST_DIRECT = 8
"""Radius up to which OpenCV takes the disc whole."""


def make_disc(radius: int) -> Element:
    """[2r + 1, 2r + 1] of 0 and 1."""
    across = np.arange(-radius, radius + 1)
    return (across[:, None] ** 2 + across**2 <= radius**2).astype(np.uint8)


def dilate(plane: Plane, radius: float) -> Plane:
    """The largest value within `radius`; between whole radii, in proportion between their results."""
    return _extreme(plane, radius, cv2.dilate)


def erode(plane: Plane, radius: float) -> Plane:
    """The smallest value within `radius`, as `dilate` takes the largest."""
    return _extreme(plane, radius, cv2.erode)


def white_top_hat(plane: Plane, radius: int) -> Plane:
    """What stands out from its surroundings and is thinner than the disc: strands, specks."""
    return np.asarray(cv2.morphologyEx(plane, cv2.MORPH_TOPHAT, make_disc(radius)), np.float32)


def fill_holes(matte: Plane) -> Plane:
    """Make opaque each piece of background that the subject (matte > 0.5) encloses, if it is small.

    Pieces hang together along sides, not corners. A hole's soft rim goes with it, as long as what is
    less than solid around it is enclosed and small as well: a hole in glass leaves the glass.
    """
    most = LARGEST_HOLE * np.count_nonzero(matte > 0.5)
    labels, small = _enclosed(matte, 0.5, most)
    filled = holes = small[labels]
    if not holes.any():
        return matte
    for level in RIMS:
        labels, small = _enclosed(matte, level, 2 * most)
        has_hole = np.zeros_like(small)
        has_hole[labels[holes]] = True
        filled = filled | (small & has_hole)[labels]
    return np.where(filled, np.float32(1), matte)


def _extreme(plane: Plane, radius: float, of: Callable[[Plane, Element], MatLike]) -> Plane:
    whole = math.floor(radius)
    inner = _within_disc(plane, whole, of)
    if radius == whole:
        return inner
    outer = _within_disc(plane, whole + 1, of)
    return inner + np.float32(radius - whole) * (outer - inner)


def _within_disc(plane: Plane, radius: int, of: Callable[[Plane, Element], MatLike]) -> Plane:
    """The extreme over a whole disc; a large one is taken row by row, each from the shorter one."""
    if radius == 0:
        return plane
    if radius <= LARGEST_DIRECT:
        return np.asarray(of(plane, make_disc(radius)), np.float32)
    best = np.maximum if of is cv2.dilate else np.minimum
    row, reach, extreme = plane, 0, plane.copy()
    for down in range(min(radius, len(plane) - 1), -1, -1):
        wider = math.isqrt(radius * radius - down * down)
        row = np.asarray(of(row, np.ones((1, 2 * (wider - reach) + 1), np.uint8)), np.float32)
        reach = wider
        best(extreme[down:], row[: len(row) - down], out=extreme[down:])
        best(extreme[: len(row) - down], row[down:], out=extreme[: len(row) - down])
    return extreme


def _enclosed(matte: Plane, level: float, most: float) -> tuple[Labels, Flags]:
    """The pieces up to `level`, [H, W] of labels, and for each label if it is enclosed and small."""
    pieces = (matte <= level).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces, connectivity=4)
    enclosed = (stats[:, cv2.CC_STAT_AREA] <= most) & ~_touches_border(stats, pieces.shape)
    enclosed[0] = False  # the label of everything above the level
    return np.asarray(labels, np.int32), np.asarray(enclosed, np.bool_)


def _touches_border(stats: MatLike, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    outermost = (left == 0) | (top == 0) | (right == shape[1]) | (bottom == shape[0])
    return np.asarray(outermost, np.bool_)
