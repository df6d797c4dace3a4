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

LARGEST_HOLE = 0.01
"""Share of the subject's area: more is a part of its shape, such as the inside of a handle."""
LARGEST_DIRECT = 8
"""Radius up to which OpenCV takes the disc whole."""


def disc(radius: int) -> Element:
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
    return np.asarray(cv2.morphologyEx(plane, cv2.MORPH_TOPHAT, disc(radius)), np.float32)


def fill_holes(matte: Plane) -> Plane:
    """Make opaque each piece of background that the subject (matte > 0.5) encloses, if it is small.

    Pieces hang together along sides, not corners.
    """
    empty = (matte <= 0.5).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(empty, connectivity=4)
    most = LARGEST_HOLE * (empty.size - np.count_nonzero(empty))
    is_hole = (stats[:, cv2.CC_STAT_AREA] <= most) & ~_touches_border(stats, empty.shape)
    is_hole[0] = False  # the label of the subject itself
    return np.where(is_hole[labels], np.float32(1), matte)


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
        return np.asarray(of(plane, disc(radius)), np.float32)
    best = np.maximum if of is cv2.dilate else np.minimum
    row, reach, extreme = plane, 0, plane.copy()
    for down in range(min(radius, len(plane) - 1), -1, -1):
        wider = math.isqrt(radius * radius - down * down)
        row = np.asarray(of(row, np.ones((1, 2 * (wider - reach) + 1), np.uint8)), np.float32)
        reach = wider
        best(extreme[down:], row[: len(row) - down], out=extreme[down:])
        best(extreme[: len(row) - down], row[down:], out=extreme[: len(row) - down])
    return extreme


def _touches_border(stats: MatLike, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    outermost = (left == 0) | (top == 0) | (right == shape[1]) | (bottom == shape[0])
    return np.asarray(outermost, np.bool_)
