"""A matte from the network's size to the picture's, in float, before anything is quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from cv2.typing import MatLike

    from bgpipe.pipeline.types import Plane


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
