"""All scores of one cutout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.evaluation import mask_metrics, matte_metrics
from bgpipe.pipeline.evaluation.composite_metrics import (
    BACKGROUNDS,
    composite_error,
    make_background,
)

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, Plane

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
    matte, true_matte = _alpha(cutout), _alpha(truth)
    return Scores(
        mae=mask_metrics.mean_absolute_error(matte, true_matte),
        iou=mask_metrics.iou(matte, true_matte),
        s_measure=mask_metrics.s_measure(matte, true_matte),
        f_max=mask_metrics.max_f_measure(matte, true_matte),
        f_weighted=mask_metrics.weighted_f_measure(matte, true_matte),
        e_measure=mask_metrics.e_measure(matte, true_matte),
        sad=matte_metrics.sum_of_absolute_differences(matte, true_matte),
        mse=matte_metrics.mean_squared_error(matte, true_matte),
        gradient=matte_metrics.gradient_error(matte, true_matte),
        connectivity=matte_metrics.connectivity_error(matte, true_matte),
        **_composite_errors(cutout, truth),
    )


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Return the mean of each score. Raises ValueError if there are none."""
    rows = np.array([astuple(row) for row in scores])
    if rows.size == 0:
        raise ValueError("no scores")
    return Scores(*(float(value) for value in rows.mean(axis=0)))


def _alpha(rgba: Pixels) -> Plane:
    return rgba[..., 3].astype(np.float32) / np.float32(255)


def _composite_errors(cutout: Pixels, truth: Pixels) -> dict[str, float]:
    return {
        f"composite_{name}": composite_error(
            cutout, truth, make_background(name, *cutout.shape[:2])
        )
        for name in BACKGROUNDS
    }
