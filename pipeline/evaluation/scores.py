"""All scores of one cutout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.evaluation import metrics
from bgpipe.pipeline.matting.resample import to_unit

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Floats, Pixels

BACKGROUNDS = ("white", "black", "grey", "checks")

_LEVELS = {"white": 255.0, "black": 0.0, "grey": 128.0}
_CHECKS = (204.0, 255.0)
_SQUARE = 8

HIGHER_IS_BETTER = frozenset({"iou", "s_measure", "f_max", "f_weighted", "e_measure"})


@dataclass(frozen=True, slots=True)
class Scores:
    """As a mask, as a matte, and on new backgrounds; see the function of each."""

    mae: float
    iou: float
    s_measure: float
    f_max: float
    f_weighted: float
    e_measure: float
    sad: float
    mse: float
    gradient: float
    connectivity: float
    composite_white: float
    composite_black: float
    composite_grey: float
    composite_checks: float


def score(cutout: Pixels, truth: Pixels) -> Scores:
    """Compare two cutouts of one image, uint8 [H, W, 4]."""
    matte, true_matte = to_unit(cutout[..., 3]), to_unit(truth[..., 3])
    return Scores(
        mae=metrics.mean_absolute_error(matte, true_matte),
        iou=metrics.iou(matte, true_matte),
        s_measure=metrics.s_measure(matte, true_matte),
        f_max=metrics.max_f_measure(matte, true_matte),
        f_weighted=metrics.weighted_f_measure(matte, true_matte),
        e_measure=metrics.e_measure(matte, true_matte),
        sad=metrics.sum_of_absolute_differences(matte, true_matte),
        mse=metrics.mean_squared_error(matte, true_matte),
        gradient=metrics.gradient_error(matte, true_matte),
        connectivity=metrics.connectivity_error(matte, true_matte),
        **{f"composite_{name}": composite_error(cutout, truth, name) for name in BACKGROUNDS},
    )


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Return the mean of each score. Raises ValueError if there are none."""
    rows = np.array([astuple(row) for row in scores])
    if rows.size == 0:
        raise ValueError("no scores")
    return Scores(*(float(value) for value in rows.mean(axis=0)))


def composite_error(cutout: Pixels, truth: Pixels, name: str) -> float:
    """Mean absolute difference of two RGBA images over a background, in levels of 255."""
    background = make_background(name, *cutout.shape[:2])
    difference = np.abs(composite_over(cutout, background) - composite_over(truth, background))
    return float(difference.mean(axis=2).mean(dtype=np.float64))


def composite_over(rgba: Pixels, background: Floats) -> Floats:
    """Composite with "over", straight alpha (T. Porter and T. Duff, Compositing Digital Images, 1984)."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.asarray(alpha * rgba[..., :3] + (1 - alpha) * background, np.float32)


def make_background(name: str, height: int, width: int) -> Floats:
    """Return one of BACKGROUNDS."""
    if name != "checks":
        return np.full((height, width, 3), _LEVELS[name], np.float32)
    rows, columns = (np.arange(side) // _SQUARE % 2 for side in (height, width))
    squares = np.where(rows[:, None] == columns, _CHECKS[0], _CHECKS[1])
    return np.repeat(squares[..., None], 3, axis=2).astype(np.float32)
