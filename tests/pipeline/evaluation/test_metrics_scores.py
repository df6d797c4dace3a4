"""Cutouts on new backgrounds."""

from __future__ import annotations

import numpy as np
import pytest

from bgpipe.pipeline.evaluation.metrics import (
    BACKGROUNDS,
    composite_error,
    composite_over,
    make_background,
    mean_scores,
    score,
)


def rgba(*pixels):
    return np.array([pixels], np.uint8)


def test_half_a_red_over_white_is_pink():
    laid = composite_over(rgba((255, 0, 0, 51)), make_background("white", 1, 1))
    assert laid == pytest.approx(np.array([[[255, 204, 204]]]))


def test_the_error_by_hand():
    ours, truth = rgba((200, 0, 0, 255), (9, 9, 9, 0)), rgba((100, 0, 0, 255), (7, 7, 7, 0))
    assert composite_error(ours, truth, "grey") == pytest.approx(100 / 3 / 2)
    ours, truth = ours[:, :1], truth[:, :1]
    assert composite_error(ours, truth, "grey") == pytest.approx(100 / 3)


def test_a_wrong_alpha_shows_only_on_another_color():
    ours, truth = rgba((255, 255, 255, 100)), rgba((255, 255, 255, 200))
    assert composite_error(ours, truth, "white") == pytest.approx(0, abs=1e-4)
    assert composite_error(ours, truth, "black") == pytest.approx(100)


def test_checks_are_squares_of_two_greys():
    checks = make_background("checks", 32, 48)
    assert {*np.unique(checks)} == {204, 255}
    assert checks[0, 0, 0] != checks[0, 8, 0]
    assert checks[0, 0, 0] == checks[8, 8, 0] == checks[7, 7, 0]


def test_every_background_has_the_images_size():
    for name in BACKGROUNDS:
        assert make_background(name, 3, 5).shape == (3, 5, 3)


def test_a_cutout_scored_against_itself_has_no_fault():
    random = np.random.default_rng(0)
    cutout = random.integers(0, 256, (40, 30, 4), np.uint8)
    found = score(cutout, cutout)
    faults = (
        "mae",
        "sad",
        "mse",
        "gradient",
        "connectivity",
        "composite_white",
        "composite_checks",
    )
    assert {found[name] for name in faults} == {0}
    assert found["iou"] == 1


def test_means_are_taken_score_by_score():
    random = np.random.default_rng(1)
    a, b = (random.integers(0, 256, (20, 20, 4), np.uint8) for _ in range(2))
    first, second = score(a, b), score(b, b)
    mean = mean_scores([first, second])
    assert mean.keys() == first.keys()
    assert mean["sad"] == pytest.approx((first["sad"] + second["sad"]) / 2)
