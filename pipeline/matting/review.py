"""Which finished cutouts a person should look at: signs in the matte, no truth needed.

Everything is judged on a copy of 256 pixels, which takes a millisecond and is fine enough for
faults that somebody would see in a thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bgpipe.pipeline.types import ReviewFlag

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.config.settings import ReviewSettings
    from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Plane, Preset

    Mask = npt.NDArray[np.bool_]

SIDE = 256
SUREST = 95
"""Percentile of the subject's pixels that must be sure: a soft subject is sure somewhere."""
CERTAIN = 0.05
"""A matte this close to 0 or 1 is not soft."""


def review(
    picture: DecodedImage,
    matte: Matte | None,
    cutout: Cutout,
    preset: Preset,
    settings: ReviewSettings,
) -> tuple[ReviewFlag, ...]:
    """The signs of trouble, in the order of `Flag`. It is the network's matte that is judged.

    `cutout` has the picture's size. Without a matte the picture brought its own.
    """
    found = {ReviewFlag.MORE_FRAMES} if picture.frames > 1 else set()
    if matte is not None:
        small = _reduced(matte.alpha)
        found.update(_flags(small, settings))
        if preset.fill_holes and not preset.invert and _filled(small, cutout) > settings.filled:
            found.add(ReviewFlag.FILLED_HOLE)
    return tuple(flag for flag in ReviewFlag if flag in found)


def _flags(matte: Plane, settings: ReviewSettings) -> Iterator[ReviewFlag]:
    subject = matte > 0.5
    share = subject.mean()
    if share <= settings.least_subject:
        yield ReviewFlag.NO_SUBJECT  # and nothing else can be said of it
        return
    if share > settings.most_subject:
        yield ReviewFlag.NEARLY_FULL
    elif _on_border(subject) > settings.border:
        yield ReviewFlag.TOUCHES_BORDER
    if _pieces(subject, settings.least_piece) > settings.most_pieces:
        yield ReviewFlag.MANY_PIECES
    if 2 * np.percentile(matte[subject], SUREST) - 1 < settings.confidence:
        yield ReviewFlag.LOW_CONFIDENCE  # which implies the next one
    elif np.mean(matte[matte > CERTAIN] < 1 - CERTAIN) > settings.soft:
        yield ReviewFlag.SOFT_EVERYWHERE


def _reduced(plane: Plane) -> Plane:
    """At most SIDE pixels a side; each is the mean of what it covers."""
    height, width = (min(side, SIDE) for side in plane.shape)
    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _on_border(subject: Mask) -> float:
    """Share of the outermost pixels."""
    border = np.concatenate([subject[0], subject[-1], subject[1:-1, 0], subject[1:-1, -1]])
    return float(border.mean())


def _pieces(subject: Mask, least: float) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(subject.astype(np.uint8))
    return int(np.count_nonzero(stats[1:, cv2.CC_STAT_AREA] >= least * subject.size))


def _filled(matte: Plane, cutout: Cutout) -> float:
    """Share of the picture that the network left open and the refinement closed."""
    height, width = matte.shape
    alpha = cv2.resize(cutout.rgba[..., 3], (width, height), interpolation=cv2.INTER_AREA)
    return float(np.mean((matte < 0.25) & (np.asarray(alpha) > 191)))
