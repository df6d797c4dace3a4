"""The matte at the picture's size."""

from __future__ import annotations

import numpy as np
import pytest

from bgpipe.pipeline.matting.resample import resize


@pytest.fixture
def plane():
    return np.random.default_rng(0).random((32, 48), np.float32)


def bilinear(plane, height, width):
    """By definition: between pixel centres, the border pixel repeated."""

    def positions(count, length):
        at = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
        low = np.minimum(np.floor(at).astype(int), max(length - 2, 0))
        return low, np.minimum(low + 1, length - 1), at - low

    top, bottom, v = positions(height, plane.shape[0])
    left, right, u = positions(width, plane.shape[1])
    rows = plane[top] * (1 - v)[:, None] + plane[bottom] * v[:, None]
    return rows[:, left] * (1 - u) + rows[:, right] * u


@pytest.mark.parametrize("size", [(32, 48), (64, 96), (101, 333), (33, 49), (1000, 48)])
def test_enlarging_is_bilinear_between_pixel_centres(plane, size):
    assert np.abs(resize(plane, *size) - bilinear(plane, *size)).max() < 1e-3


@pytest.mark.parametrize("size", [(16, 24), (8, 48), (4, 3), (1, 1)])
def test_shrinking_takes_the_mean_of_what_a_pixel_covers(plane, size):
    height, width = size
    blocks = plane.reshape(height, 32 // height, width, 48 // width)
    assert np.abs(resize(plane, *size) - blocks.mean(axis=(1, 3))).max() < 1e-5


def test_one_side_may_shrink_while_the_other_grows(plane):
    found = resize(plane, 16, 200)
    halved = plane.reshape(16, 2, 48).mean(axis=1)
    assert np.abs(found - bilinear(halved, 16, 200)).max() < 1e-3


def test_fine_stripes_do_not_alias_when_they_shrink():
    stripes = np.tile(np.array([[0, 1]], np.float32), (64, 512))
    assert np.abs(resize(stripes, 64, 100) - 0.5).max() < 0.1


@pytest.mark.parametrize("size", [(1, 1), (5000, 2), (7, 9), (1024, 1024)])
def test_values_stay_between_the_matte_extremes(plane, size):
    found = resize(plane, *size)
    assert plane.min() - 1e-6 <= found.min() <= found.max() <= plane.max() + 1e-6
    assert found.shape == size
    assert found.dtype == np.float32
