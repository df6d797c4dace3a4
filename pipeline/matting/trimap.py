"""What a matte is sure of, and the band around its edge where another network has to look again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Plane

    Trimap = npt.NDArray[np.uint8]
    """uint8 [H, W] of BACKGROUND, UNKNOWN and SUBJECT."""

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
