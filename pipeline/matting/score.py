"""The expected IoU of a matte with the truth, from signs in the network's output, without ground truth.

A fractional logit model (Papke and Wooldridge 1996) weighs signs of doubt: entropy away from the edge,
and disagreement with the coarse matte of the decoder's own supervised head. `infra/quality/score.py`
fits it on photos that the network did not learn from.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import cv2
import numpy as np

from bgpipe.pipeline.matting.resample import Positions, resize, shrink
from bgpipe.pipeline.types import Floats, Matte, Plane

SIDE, COARSE_SIDE = 256, 36
"""Largest height and width of the copies that are judged: signs do not depend on the model's size."""
EDGE = np.ones((9, 9), np.uint8)  # reach of the edge, where a matte is unsure for good reasons
PIECE = 0.001  # share of the image from which a part of the subject counts as a piece
MOST_PIECES = 6
LIMIT = 3.0
"""A sign further from its mean, in standard deviations, counts as this far: it is beyond the fit's photos."""
OFFSET = 1e-3  # added to shares and probabilities before a logarithm


def expected_iou(matte: Matte) -> float | None:
    """Return the expected IoU at 0.5, in hundredths of [0, 1]; None if the weights lack the coarse matte's head."""
    if matte.coarse is None or np.ptp(matte.coarse) == 0:
        return None
    model = read_model()
    mean, deviation, weight = np.array([model["signs"][name] for name in SIGNS]).T
    signs = np.clip((measure(matte.alpha, matte.coarse) - mean) / deviation, -LIMIT, LIMIT)
    return round(float(1 / (1 + np.exp(-(model["intercept"] + weight @ signs)))), 2)


SIGNS = (
    "doubt_off_edge",
    "doubt_inside",
    "confidence",
    "pieces",
    "coarse_doubt",
    "coarse_difference",
    "coarse_surplus",
)
"""What `measure` returns. Shares are of the subject's area, and logarithmic."""


def measure(alpha: Plane, coarse: Plane) -> Floats:
    """Return the signs [7] of a matte [h, w] and its coarse one, in the order of SIGNS."""
    alpha = shrink(alpha, SIDE)
    subject = alpha > 0.5
    count = max(int(subject.sum()), 1)
    mask = subject.astype(np.uint8)
    inside, outside = cv2.erode(mask, EDGE) > 0, cv2.dilate(mask, EDGE) == 0
    entropy, places = _entropy(alpha)
    doubt_inside = entropy[inside.ravel()[places]].sum()
    doubt_outside = entropy[outside.ravel()[places]].sum()
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, ltype=cv2.CV_16U)
    pieces = int(np.count_nonzero(stats[1:, cv2.CC_STAT_AREA] >= PIECE * mask.size))
    confidence = alpha[subject].mean() if subject.any() else 0.0
    coarse = shrink(coarse, COARSE_SIDE)
    fine = resize(alpha, *coarse.shape)
    fine_count = max(float(fine.sum()), OFFSET * fine.size)
    beyond = cv2.dilate(fine, np.ones((3, 3), np.uint8)) <= 0.2
    signs = (
        np.log((doubt_inside + doubt_outside) / count + OFFSET),
        np.log(doubt_inside / count + OFFSET),
        np.log((confidence + OFFSET) / (1 - confidence + OFFSET)),
        min(pieces, MOST_PIECES),
        np.log(_entropy(coarse)[0].sum() / fine_count + OFFSET),
        np.log(np.abs(coarse - fine).sum() / fine_count + OFFSET),
        np.log(coarse[beyond].sum() / fine_count + OFFSET),
    )
    return np.array(signs, np.float32)


@cache
def read_model() -> dict[str, Any]:
    """Return the fitted model: its intercept, and mean, standard deviation and weight of each sign."""
    text = files("bgpipe.config").joinpath("score.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _entropy(plane: Plane) -> tuple[Floats, Positions]:
    """Return the entropy, in bits, of the pixels that are not almost 0 or 1, and their positions."""
    places = np.flatnonzero(np.abs(plane - np.float32(0.5)) < 0.5 - OFFSET)
    values = plane.ravel()[places]
    return -(values * np.log2(values) + (1 - values) * np.log2(1 - values)), places
