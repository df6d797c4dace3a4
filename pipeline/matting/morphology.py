"""Gray morphology with discs of any radius, and holes.

The disc of radius r holds the pixels whose centers are within r of its own.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from cv2.typing import MatLike

from bgpipe.pipeline.types import Pixels, Plane

Choose = Callable[[Plane, Pixels], MatLike]
"""cv2.dilate or cv2.erode."""

LARGEST_HOLE = 0.01
"""Share of the subject's area; a larger hole is part of its shape, such as the inside of a handle."""
RIMS = (0.95, 1 - 0.5 / 255)  # levels up to which the soft rim of a hole is filled with it
LARGEST_DIRECT = 8  # radius up to which OpenCV filters with the whole disc


def make_disc(radius: int) -> Pixels:
    """Return [2r + 1, 2r + 1] of 0 and 1."""
    across = np.arange(-radius, radius + 1)
    return (across[:, None] ** 2 + across**2 <= radius**2).astype(np.uint8)


def dilate(plane: Plane, radius: float) -> Plane:
    """Return the largest value within `radius`, interpolated between whole radii."""
    return _extreme(plane, radius, cv2.dilate)


def erode(plane: Plane, radius: float) -> Plane:
    """Return the smallest value within `radius`; see `dilate`."""
    return _extreme(plane, radius, cv2.erode)


def white_top_hat(plane: Plane, radius: int) -> Plane:
    """Return the bright details thinner than the disc: strands, specks."""
    return np.asarray(cv2.morphologyEx(plane, cv2.MORPH_TOPHAT, make_disc(radius)), np.float32)


def fill_holes(matte: Plane) -> Plane:
    """Make opaque each small piece of background that the subject (matte > 0.5) encloses.

    Pieces are connected along sides, not corners. The soft rim of a hole is filled with it if the
    region that is not solid around it is enclosed and small as well: glass stays around its hole.
    """
    maximum = LARGEST_HOLE * np.count_nonzero(matte > 0.5)
    labels, small = _find_enclosed(matte, 0.5, maximum)
    filled = holes = small[labels]
    if not holes.any():
        return matte
    for level in RIMS:
        labels, small = _find_enclosed(matte, level, 2 * maximum)
        has_hole = np.zeros_like(small)
        has_hole[labels[holes]] = True
        filled = filled | (small & has_hole)[labels]
    return np.where(filled, np.float32(1), matte)


def _extreme(plane: Plane, radius: float, choose: Choose) -> Plane:
    whole = math.floor(radius)
    inner = _within_disc(plane, whole, choose)
    if radius == whole:
        return inner
    outer = _within_disc(plane, whole + 1, choose)
    return inner + np.float32(radius - whole) * (outer - inner)


def _within_disc(plane: Plane, radius: int, choose: Choose) -> Plane:
    """Return the extreme over a disc; a large one row by row, each from the shorter one."""
    if radius == 0:
        return plane
    if radius <= LARGEST_DIRECT:
        return np.asarray(choose(plane, make_disc(radius)), np.float32)
    best = np.maximum if choose is cv2.dilate else np.minimum
    row, reach, extreme = plane, 0, plane.copy()
    for down in range(min(radius, len(plane) - 1), -1, -1):
        wider = math.isqrt(radius * radius - down * down)
        row = np.asarray(choose(row, np.ones((1, 2 * (wider - reach) + 1), np.uint8)), np.float32)
        reach = wider
        best(extreme[down:], row[: len(row) - down], out=extreme[down:])
        best(extreme[: len(row) - down], row[down:], out=extreme[: len(row) - down])
    return extreme


def _find_enclosed(
    matte: Plane, level: float, maximum: float
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Label the pieces up to `level` [H, W]; return for each label if it is enclosed and small."""
    pieces = (matte <= level).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces, connectivity=4)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0)
    inside &= (left + width < pieces.shape[1]) & (top + height < pieces.shape[0])
    enclosed = inside & (area <= maximum)
    enclosed[0] = False  # the label of everything above the level
    return np.asarray(labels, np.int32), np.asarray(enclosed, np.bool_)
