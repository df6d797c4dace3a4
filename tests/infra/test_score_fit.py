"""The fit of the score: it finds the model behind made-up mattes, and its figures are what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "infra" / "quality"))

from score import Trial, auroc, calibration_error, cross_validate, fit

from bgpipe.pipeline.matting.score import SIGNS

WEIGHTS = np.array([-0.8, 0.0, 0.5, 0.0, -0.3, 0.0, 0.0])


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    """2,000 mattes of 1,000 subjects, whose mean IoU is logistic in signs of any mean and scale."""
    rng = np.random.default_rng(1)
    standard = rng.normal(size=(2000, len(SIGNS)))
    mean = 1 / (1 + np.exp(-(1.5 + standard @ WEIGHTS)))
    iou = rng.beta(8 * mean, 8 * (1 - mean))
    signs = 3 + 2 * standard
    rows = enumerate(zip(signs, iou, strict=True))
    return [Trial(f"{number // 2}", row, value, ()) for number, (row, value) in rows]


def test_the_fit_finds_the_weights_and_is_calibrated(trials: list[Trial]) -> None:
    model = fit(trials)
    np.testing.assert_allclose(model.weights, WEIGHTS, atol=0.06)
    iou = np.array([trial.iou for trial in trials])
    scores = cross_validate(trials)
    assert scores.mean() == pytest.approx(iou.mean(), abs=0.005)
    assert calibration_error(scores, iou) < 0.02
    assert auroc(scores, iou) > 0.7


def test_auroc_is_one_where_all_bad_mattes_score_lower_and_a_half_for_equal_scores() -> None:
    iou = np.array([0.2, 0.7, 0.9, 1.0])
    assert auroc(iou, iou) == 1
    assert auroc(-iou, iou) == 0
    assert auroc(np.ones(4), iou) == 0.5
