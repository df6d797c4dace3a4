"""Scores of a matte as a mask: by hand, by another implementation, and at their limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bgpipe.pipeline.evaluation.metrics import (
    e_measure,
    iou,
    max_f_measure,
    mean_absolute_error,
    s_measure,
    weighted_f_measure,
)

from .mask_scores import SEEDS, blobs

SCORES = json.loads(Path(__file__).with_name("mask_scores.json").read_text())
ALL = [iou, max_f_measure, weighted_f_measure, e_measure, s_measure]


def plane(rows):
    return np.array(rows, np.float32)


def planes(seed):
    return tuple((plane / np.float32(255)) for plane in blobs(seed))


@pytest.mark.parametrize("measure", ALL)
def test_the_truth_itself_scores_one(measure):
    _, truth = planes(0)
    assert measure(truth, truth) == pytest.approx(1, abs=1e-6)
    assert mean_absolute_error(truth, truth) == 0


@pytest.mark.parametrize("measure", ALL)
def test_the_opposite_of_the_truth_scores_low(measure):
    _, truth = planes(0)
    assert measure(1 - truth, truth) < 0.35


@pytest.mark.parametrize("measure", ALL)
def test_scores_fall_as_the_matte_gets_worse(measure):
    _, truth = planes(0)
    scores = [measure(np.abs(truth - np.float32(wrong)), truth) for wrong in (0, 0.2, 0.4, 0.6, 1)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("measure", ALL)
def test_an_empty_truth_wants_an_empty_matte(measure):
    nothing, all_of_it = np.zeros((60, 70), np.float32), np.ones((60, 70), np.float32)
    assert measure(nothing, nothing) == pytest.approx(1, abs=1e-6)
    assert measure(all_of_it, nothing) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", ALL)
def test_a_truth_that_is_all_subject_wants_a_full_matte(measure):
    nothing, all_of_it = np.zeros((60, 70), np.float32), np.ones((60, 70), np.float32)
    assert measure(all_of_it, all_of_it) == pytest.approx(1)
    assert measure(nothing, all_of_it) < 0.3


def test_by_hand():
    matte = plane([[1, 0.6, 0.4], [0.2, 0, 0]])
    truth = plane([[1, 1, 1], [0, 0, 0]])
    assert mean_absolute_error(matte, truth) == pytest.approx((0.4 + 0.6 + 0.2) / 6)
    assert iou(matte, truth) == pytest.approx(2 / 3)
    # At 0.4 the mask is the truth; at a higher threshold it misses a pixel, at 0.2 it has one more.
    assert max_f_measure(matte, truth) == pytest.approx(1)
    matte[0, 2] = 0.1  # precision 1 and recall 2/3, or 3/4 and 2/3, or 3/5 and 1
    assert max_f_measure(matte, truth) == pytest.approx(1.3 * (2 / 3) / (0.3 + 2 / 3))


@pytest.mark.parametrize("measure", [mean_absolute_error, *ALL[1:]])
@pytest.mark.parametrize("seed", SEEDS)
def test_another_implementation_of_the_papers_agrees(measure, seed):
    assert measure(*planes(seed)) == pytest.approx(SCORES[seed][measure.__name__], abs=1e-7)
