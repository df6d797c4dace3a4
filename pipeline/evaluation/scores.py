"""Every score of one cutout at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.evaluation import composite_metrics, mask_metrics, matte_metrics

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, Plane

HIGHER_IS_BETTER = frozenset({"iou", "s_measure", "f_max", "f_weighted", "e_measure"})


@dataclass(frozen=True, slots=True)
class Scores:
    """As a mask, as a matte, and on new backgrounds; each is defined where it is computed."""

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


def score(ours: Pixels, truth: Pixels) -> Scores:
    """Compare two cutouts of one picture, uint8 [H, W, 4]."""
    matte, true_matte = _alpha(ours), _alpha(truth)
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
        **_composites(ours, truth),
    )


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Score by score. Raises ValueError where there are none."""
    rows = np.array([astuple(each) for each in scores])
    if rows.size == 0:
        raise ValueError("no scores to take the mean of")
    return Scores(*(float(value) for value in rows.mean(axis=0)))


def _alpha(rgba: Pixels) -> Plane:
    return rgba[..., 3].astype(np.float32) / np.float32(255)


def _composites(ours: Pixels, truth: Pixels) -> dict[str, float]:
    return {
        f"composite_{name}": composite_metrics.composite_error(
            ours, truth, composite_metrics.ground(name, *ours.shape[:2])
        )
        for name in composite_metrics.GROUNDS
    }
