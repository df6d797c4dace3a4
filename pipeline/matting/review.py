"""Flags for cutouts that need a manual check, from signs in the matte, without ground truth.

They are judged on a copy of 256 pixels, which takes a millisecond and shows the faults that are
visible in a thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from bgpipe.config.settings import ReviewSettings
from bgpipe.pipeline.matting.resample import shrink
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Plane, Preset, ReviewFlag

SIDE = 256
CERTAIN_PERCENTILE = 95
"""Percentile of the subject's alpha that must be certain: even a soft subject is so somewhere."""
CERTAIN = 0.05  # a matte this close to 0 or 1 is not soft


@dataclass(frozen=True, slots=True)
class Review:
    """Reasons to review a cutout, and its score: the expected IoU of its matte, in hundredths, if known."""

    flags: tuple[ReviewFlag, ...] = ()
    score: float | None = None

    def flagged_below(self, limit: float) -> Review:
        """Return the review, with the flag LOW_SCORE if the score is below `limit`."""
        if self.score is None or self.score >= limit:
            return self
        return Review((*self.flags, ReviewFlag.LOW_SCORE), self.score)


def review(
    image: DecodedImage,
    matte: Matte | None,
    cutout: Cutout,
    preset: Preset,
    settings: ReviewSettings,
) -> tuple[ReviewFlag, ...]:
    """Return the flags of the network's matte, in the order of ReviewFlag.

    `cutout` has the image's size. `matte` is None if the image's own alpha was kept.
    """
    flags = {ReviewFlag.MORE_FRAMES} if image.frames > 1 else set()
    if matte is not None:
        small = shrink(matte.alpha, SIDE)
        flags.update(_judge(small, settings))
        if preset.fill_holes and not preset.invert:
            alpha, size = cutout.rgba[..., 3], small.shape[::-1]
            opaque = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA) > 191
            if np.mean((small < 0.25) & opaque) > settings.filled:
                flags.add(ReviewFlag.FILLED_HOLE)
    return tuple(flag for flag in ReviewFlag if flag in flags)


def _judge(matte: Plane, settings: ReviewSettings) -> Iterator[ReviewFlag]:
    subject = matte > 0.5
    border = np.concatenate([subject[0], subject[-1], subject[1:-1, 0], subject[1:-1, -1]])
    share = subject.mean()
    if share <= settings.least_subject:
        yield ReviewFlag.NO_SUBJECT  # which makes the other flags meaningless
        return
    if share > settings.most_subject:
        yield ReviewFlag.NEARLY_FULL
    elif border.mean() > settings.border:
        yield ReviewFlag.TOUCHES_BORDER
    _, _, stats, _ = cv2.connectedComponentsWithStats(subject.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    if np.count_nonzero(areas >= settings.least_piece * subject.size) > settings.most_pieces:
        yield ReviewFlag.MANY_PIECES
    if 2 * np.percentile(matte[subject], CERTAIN_PERCENTILE) - 1 < settings.confidence:
        yield ReviewFlag.LOW_CONFIDENCE  # which implies the next one
    elif np.mean(matte[matte > CERTAIN] < 1 - CERTAIN) > settings.soft:
        yield ReviewFlag.SOFT_EVERYWHERE
