"""A matte enlarged along the edges of its picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bgpipe.pipeline.matting.guided_filter import EPSILON, RADIUS, SHARE, guided_filter
from bgpipe.pipeline.matting.resample import resize


def scene(size, cells=5):
    """A disc with a wavy edge on a ground of another colour, and its true matte."""
    random = np.random.default_rng(0)
    y, x = np.indices(size, np.float32)
    angle = np.arctan2(y - size[0] / 2, x - size[1] / 2)
    distance = np.hypot(y - size[0] / 2, x - size[1] / 2)
    radius = min(size) * (0.3 + 0.04 * np.sin(23 * angle))
    alpha = np.clip((radius - distance) / 2 + 0.5, 0, 1).astype(np.float32)
    near, far = (
        cv2.resize(random.uniform(*ends, (cells, cells, 3)), size[::-1])
        for ends in ((150, 250), (10, 90))
    )
    rgb = alpha[..., None] * near + (1 - alpha[..., None]) * far
    return np.rint(rgb).astype(np.uint8), alpha


def enlarged(matte, rgb):
    return guided_filter(matte, resize(matte, *rgb.shape[:2]), rgb)


@pytest.mark.parametrize("size", [(512, 512), (900, 640)])
def test_the_enlarged_matte_comes_nearer_to_the_truth(size):
    rgb, truth = scene(size)
    matte = resize(truth, 128, 128)
    plain = np.abs(resize(matte, *size) - truth).sum()
    assert np.abs(enlarged(matte, rgb) - truth).sum() < 0.7 * plain


def by_the_letter(matte, rgb):
    """Every window and every pixel in a loop; alpha = a . I + b, the coefficients averaged."""
    height, width = matte.shape
    guide = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).astype(float) / 255
    padded = np.pad(guide, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)), "symmetric")
    values = np.pad(matte.astype(float), RADIUS, "symmetric")
    slope, offset = np.zeros((height, width, 3)), np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        window = (slice(y, y + 2 * RADIUS + 1), slice(x, x + 2 * RADIUS + 1))
        colours, alphas = padded[window].reshape(-1, 3), values[window].ravel()
        variance = np.cov(colours.T, bias=True) + EPSILON * np.eye(3)
        covariance = ((colours - colours.mean(0)) * (alphas - alphas.mean())[:, None]).mean(0)
        slope[y, x] = np.linalg.solve(variance, covariance)
        offset[y, x] = alphas.mean() - slope[y, x] @ colours.mean(0)
    window = (2 * RADIUS + 1, 2 * RADIUS + 1)
    full = [
        cv2.resize(cv2.blur(values, window, borderType=cv2.BORDER_REFLECT), rgb.shape[1::-1])
        for values in (slope, offset)
    ]
    return np.clip((full[0] * rgb / 255).sum(axis=2) + full[1], 0, 1)


def test_it_is_the_published_filter_in_the_soft_band():
    rgb, truth = scene((120, 96))
    matte = resize(truth, 40, 48)
    full = resize(matte, 120, 96)
    soft = (full > 0.5 / 255) & (full < 1 - 0.5 / 255)
    expected = full + SHARE * (by_the_letter(matte, rgb) - full)
    assert np.abs(enlarged(matte, rgb) - expected)[soft].max() < 2e-3


def test_only_soft_pixels_change_and_nothing_that_was_given():
    rgb, truth = scene((300, 300))
    matte = resize(truth, 64, 64)
    full = resize(matte, 300, 300)
    before = full.copy()
    followed = guided_filter(matte, full, rgb)
    assert np.array_equal(full, before)
    hard = (full <= 0.5 / 255) | (full >= 1 - 0.5 / 255)
    assert np.array_equal(followed[hard], full[hard])
    assert followed[~hard].min() >= 0
    assert followed[~hard].max() <= 1


@pytest.mark.parametrize("size", [(60, 60), (64, 64), (30, 100), (1, 1)])
def test_a_picture_without_more_pixels_has_nothing_to_tell(size):
    rgb, truth = scene(size)
    matte = resize(truth, 64, 64)
    full = resize(matte, *size)
    assert guided_filter(matte, full, rgb) is full
