"""Scores of a matte as a mask: by hand, by the letter of the papers, and where they have to end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bgpipe.pipeline.evaluation.mask_metrics import (
    e_measure,
    iou,
    max_f_measure,
    mean_absolute_error,
    s_measure,
    weighted_f_measure,
)

ALL = [iou, max_f_measure, weighted_f_measure, e_measure, s_measure]


def plane(rows):
    return np.array(rows, np.float32)


def blobs(seed, size=(23, 31)):
    """A matte on the 8-bit grid, and a mask that it resembles."""
    random = np.random.default_rng(seed)
    y, x = np.indices(size)
    centre = random.uniform(6, 16, 2)
    truth = np.hypot(y - centre[0], x - centre[1]) < random.uniform(3, 8)
    soft = 1 / (1 + np.exp(np.hypot(y - centre[0] - 1, x - centre[1] + 1) - 5))
    noisy = np.clip(soft + random.normal(0, 0.15, size), 0, 1)
    return (np.rint(noisy * 255) / 255).astype(np.float32), truth.astype(np.float32)


CASES = [blobs(seed) for seed in range(6)]


@pytest.mark.parametrize("measure", ALL)
def test_the_truth_itself_scores_one(measure):
    _, truth = CASES[0]
    assert measure(truth, truth) == pytest.approx(1, abs=1e-6)
    assert mean_absolute_error(truth, truth) == 0


@pytest.mark.parametrize("measure", ALL)
def test_the_opposite_of_the_truth_scores_low(measure):
    _, truth = CASES[0]
    assert measure(1 - truth, truth) < 0.35


@pytest.mark.parametrize("measure", ALL)
def test_scores_fall_as_the_matte_gets_worse(measure):
    _, truth = CASES[0]
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


def f_measures(matte, truth):
    for threshold in range(1, 256):
        mask = matte * 255 >= threshold - 1e-3
        hits = np.sum(mask & (truth > 0.5))
        if hits:
            precision, recall = hits / mask.sum(), hits / truth.sum()
            yield 1.3 * precision * recall / (0.3 * precision + recall)


@pytest.mark.parametrize(("matte", "truth"), CASES)
def test_the_f_measure_is_the_best_of_all_thresholds(matte, truth):
    assert max_f_measure(matte, truth) == pytest.approx(max(f_measures(matte, truth)))


def alignment(mask, truth):
    total = 0.0
    for ours, theirs in zip(mask.ravel() - mask.mean(), truth.ravel() - truth.mean(), strict=True):
        xi = 2 * ours * theirs / (ours**2 + theirs**2) if ours or theirs else 0.0
        total += (1 + xi) ** 2 / 4
    return total / mask.size


@pytest.mark.parametrize(("matte", "truth"), CASES[:2])
def test_the_e_measure_aligns_pixel_by_pixel(matte, truth):
    levels = [(matte * 255 >= threshold - 1e-3).astype(float) for threshold in range(1, 256)]
    expected = np.mean([alignment(mask, truth.astype(float)) for mask in levels])
    assert e_measure(matte, truth) == pytest.approx(expected, abs=1e-9)


def weighted_by_the_letter(matte, truth):
    """Loops over every pair of pixels instead of a distance transform and a convolution."""
    inside = np.argwhere(truth > 0.5)
    error = np.abs(matte.astype(float) - truth)
    carried, far = error.copy(), np.zeros(truth.shape)
    for y, x in np.argwhere(truth <= 0.5):
        distances = np.hypot(inside[:, 0] - y, inside[:, 1] - x)
        far[y, x] = distances.min()
        carried[y, x] = error[tuple(inside[distances.argmin()])]
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 5.0**2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.pad(carried, 3)
    weighted = error.copy()
    for y, x in np.ndindex(*truth.shape):
        if truth[y, x] > 0.5:
            weighted[y, x] = min(error[y, x], (padded[y : y + 7, x : x + 7] * kernel).sum())
        else:
            weighted[y, x] *= 2 - math.exp(math.log(0.5) / 5 * far[y, x])
    missed, wrong = weighted[truth > 0.5].sum(), weighted[truth <= 0.5].sum()
    hits = truth.sum() - missed
    precision, recall = hits / (hits + wrong), 1 - missed / truth.sum()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(("matte", "truth"), CASES)
def test_the_weighted_f_measure_is_the_papers(matte, truth):
    """Up to which of several nearest pixels lends its error."""
    assert weighted_f_measure(matte, truth) == pytest.approx(
        weighted_by_the_letter(matte, truth), abs=2e-3
    )


def object_likeness(values):
    return 2 * np.mean(values) / (np.mean(values) ** 2 + 1 + np.std(values, ddof=1))


def structure_by_the_letter(matte, truth):
    mask = truth > 0.5
    share = mask.mean()
    objects = share * object_likeness(matte[mask])
    objects += (1 - share) * object_likeness(1 - matte[~mask])
    y, x = (round(np.mean(at)) + 1 for at in np.nonzero(mask))
    regions = 0.0
    for rows, columns in [
        ((0, y), (0, x)),
        ((0, y), (x, None)),
        ((y, None), (0, x)),
        ((y, None), (x, None)),
    ]:
        ours = matte[slice(*rows), slice(*columns)].ravel().astype(float)
        theirs = truth[slice(*rows), slice(*columns)].ravel().astype(float)
        (variance, covariance), (_, true_variance) = np.cov(ours, theirs)
        top = 4 * ours.mean() * theirs.mean() * covariance
        bottom = (ours.mean() ** 2 + theirs.mean() ** 2) * (variance + true_variance)
        similar = top / bottom if top else float(bottom == 0)
        regions += ours.size / truth.size * similar
    return 0.5 * objects + 0.5 * regions


@pytest.mark.parametrize(("matte", "truth"), CASES)
def test_the_s_measure_is_the_papers(matte, truth):
    assert s_measure(matte, truth) == pytest.approx(
        max(0, structure_by_the_letter(matte.astype(float), truth)), abs=1e-6
    )
