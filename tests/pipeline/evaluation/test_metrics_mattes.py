"""Scores of a matte as a matte: by hand, and by a slow second way."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from bgpipe.pipeline.evaluation.metrics import (
    connectivity_error,
    gradient_error,
    mean_squared_error,
    sum_of_absolute_differences,
)


def case(seed, size=(20, 26)):
    random = np.random.default_rng(seed)
    y, x = np.indices(size)
    truth = np.clip(4.5 - np.hypot(y - 9, x - 12) / 2, 0, 1)
    matte = np.clip(truth + random.normal(0, 0.2, size), 0, 1)
    return matte.astype(np.float32), truth.astype(np.float32)


CASES = [case(seed) for seed in range(4)]
ALL = [connectivity_error, gradient_error, mean_squared_error, sum_of_absolute_differences]


@pytest.mark.parametrize("error", ALL)
def test_the_truth_itself_has_no_error(error):
    _, truth = CASES[0]
    assert error(truth, truth) == 0


@pytest.mark.parametrize("error", ALL)
def test_more_noise_is_more_error(error):
    noise, truth = CASES[0]
    mixed = [error(truth + np.float32(part) * (noise - truth), truth) for part in (0.4, 0.7, 1.0)]
    assert 0 < mixed[0] < mixed[1] < mixed[2]


def test_by_hand():
    matte = np.array([[1, 0.5], [0.25, 0]], np.float32)
    truth = np.array([[1, 1], [0, 0]], np.float32)
    assert sum_of_absolute_differences(matte, truth) == pytest.approx(0.75 / 1000)
    assert mean_squared_error(matte, truth) == pytest.approx((0.25 + 0.0625) / 4)


def gradient(plane):
    """The full two-dimensional kernel, laid on every pixel."""
    y, x = np.mgrid[-4:5, -4:5]
    kernel = x * np.exp(-(x**2 + y**2) / (2 * 1.4**2))
    kernel /= np.sqrt((kernel**2).sum())
    padded = np.pad(plane.astype(float), 4, mode="edge")
    across, down = np.zeros(plane.shape), np.zeros(plane.shape)
    for at in np.ndindex(*plane.shape):
        around = padded[at[0] : at[0] + 9, at[1] : at[1] + 9]
        across[at], down[at] = (around * kernel).sum(), (around * kernel.T).sum()
    return np.sqrt(across**2 + down**2)


@pytest.mark.parametrize(("matte", "truth"), CASES[:2])
def test_the_gradient_is_the_gaussians_derivative(matte, truth):
    expected = ((gradient(matte) - gradient(truth)) ** 2).sum() / 1000
    assert gradient_error(matte, truth) == pytest.approx(expected, rel=1e-5)


def largest_piece(mask):
    best, seen = set(), set()
    for start in map(tuple, np.argwhere(mask)):
        if start in seen:
            continue
        piece, waiting = {start}, deque([start])
        while waiting:
            y, x = waiting.popleft()
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and mask[near] and near not in piece:
                    piece.add(near)
                    waiting.append(near)
        seen |= piece
        best = max(best, piece, key=len)
    return best


def connectivity_by_the_letter(matte, truth):
    level = np.ones(matte.shape)
    for step in range(10, 0, -1):
        threshold = np.float32(step / 10)
        piece = largest_piece((matte >= threshold) & (truth >= threshold))
        for at in np.ndindex(*matte.shape):
            if at not in piece:
                level[at] = (step - 1) / 10
    total = 0.0
    for at in np.ndindex(*matte.shape):
        ours, theirs = matte[at] - level[at], truth[at] - level[at]
        total += abs((ours if ours >= 0.15 else 0) - (theirs if theirs >= 0.15 else 0))
    return total / 1000


@pytest.mark.parametrize(("matte", "truth"), CASES)
def test_connectivity_is_the_papers(matte, truth):
    expected = connectivity_by_the_letter(matte, truth)
    assert connectivity_error(matte, truth) == pytest.approx(expected, rel=1e-5)


def test_a_speck_far_from_the_subject_costs_its_opacity():
    truth = np.zeros((20, 20), np.float32)
    truth[2:12, 2:12] = 1
    matte = truth.copy()
    matte[17, 17] = 0.6
    assert connectivity_error(matte, truth) == pytest.approx(0.6 / 1000)
