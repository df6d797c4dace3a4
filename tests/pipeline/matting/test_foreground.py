"""Colours of soft edges, against known mixtures and the published recipe."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bgpipe.pipeline.matting.foreground import estimate_foreground


def texture(size, cells, low, high, seed):
    cloth = np.random.default_rng(seed).uniform(low, high, (cells, cells, 3)).astype(np.float32)
    return np.clip(cv2.resize(cloth, size[::-1], interpolation=cv2.INTER_CUBIC), 0, 255)


def mixture(size, sigma, cells=6):
    """A warm disc on a cool ground: the true foreground, the matte, and what a camera sees."""
    disc = np.zeros(size, np.float32)
    cv2.circle(disc, (size[1] // 2, size[0] // 2), min(size) // 3, 1.0, -1)
    alpha = cv2.GaussianBlur(disc, (0, 0), sigma)
    foreground = texture(size, cells, (150, 90, 40), (250, 160, 90), 0)
    background = texture(size, cells, (10, 40, 60), (90, 150, 200), 1)
    seen = alpha[..., None] * foreground + (1 - alpha[..., None]) * background
    return foreground, alpha, np.rint(seen).astype(np.uint8)


def soft(alpha):
    return np.flatnonzero((alpha > 0.5 / 255) & (alpha < 1 - 0.5 / 255))


def composite_error(colours, foreground, alpha, where):
    """Mean over the soft pixels; the ground, be it white, black or green, cancels out."""
    difference = np.abs(colours - foreground.reshape(-1, 3)[where])
    return float((alpha.reshape(-1, 1)[where] * difference).mean())


@pytest.mark.parametrize("size", [(200, 260), (700, 900), (1800, 2400)])
@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_the_background_no_longer_shines_through(size, sigma):
    foreground, alpha, seen = mixture(size, sigma)
    where = soft(alpha)
    estimated = estimate_foreground(seen, alpha, where)
    error = composite_error(estimated, foreground, alpha, where)
    untouched = composite_error(seen.reshape(-1, 3)[where], foreground, alpha, where)
    assert error < 2
    assert error < 0.3 * untouched


def two_passes(image, alpha):
    """The published recipe at full size, in float, to the letter."""
    a = alpha[..., None]

    def step(foreground, background, kernel):
        box = (kernel, kernel)
        share = cv2.blur(alpha, box)[..., None]
        front = cv2.blur(foreground * a, box) / (share + 1e-5)
        back = cv2.blur(background * (1 - a), box) / (1 - share + 1e-5)
        return np.clip(front + a * (image - a * front - (1 - a) * back), 0, 1), back

    return step(*step(image, image, 90), 6)[0]


@pytest.mark.parametrize(
    ("size", "mean", "most"), [((300, 400), 0.3, 1), ((1024, 700), 0.3, 1), ((1500, 2600), 0.75, 4)]
)
def test_it_is_blur_fusion_and_close_to_it_where_the_passes_are_reduced(size, mean, most):
    _, alpha, seen = mixture(size, 2.0, cells=40)
    where = soft(alpha)
    recipe = 255 * two_passes(seen.astype(np.float32) / 255, alpha).reshape(-1, 3)[where]
    difference = np.abs(estimate_foreground(seen, alpha, where) - recipe)
    assert difference.mean() < mean
    assert np.percentile(difference, 99) <= most


def test_a_pixel_that_is_all_foreground_keeps_its_colour():
    _, alpha, seen = mixture((200, 200), 2.0)
    where = np.flatnonzero(alpha == 1)
    assert np.array_equal(estimate_foreground(seen, alpha, where), seen.reshape(-1, 3)[where])


def test_far_from_the_subject_its_colour_is_still_taken():
    seen = np.full((120, 120, 3), (0, 0, 255), np.uint8)
    seen[:60] = (200, 100, 0)
    alpha = np.zeros((120, 120), np.float32)
    alpha[:60] = 1
    colour = estimate_foreground(seen, alpha, np.array([80 * 120 + 60]))
    assert colour.tolist() == [[200, 100, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_the_smallest_pictures_have_colours(shape):
    seen = np.full((*shape, 3), 90, np.uint8)
    where = np.arange(seen.size // 3)
    colours = estimate_foreground(seen, np.full(shape, 0.5, np.float32), where)
    assert colours.shape == (where.size, 3)
    assert np.abs(colours.astype(int) - 90).max() <= 1


def test_more_pixels_than_one_block_are_sampled_where_they_are():
    rows = np.linspace(0, 255, 200, dtype=np.float32)
    seen = np.repeat(np.rint(rows).astype(np.uint8)[:, None], 3, axis=1)
    seen = np.repeat(seen[:, None], 100, axis=1)
    where = np.arange(200 * 100)
    colours = estimate_foreground(seen, np.ones((200, 100), np.float32), where)
    assert np.array_equal(colours, seen.reshape(-1, 3))


def test_the_reference_of_the_published_recipe_is_met(shared):
    load_file = pytest.importorskip("safetensors.numpy").load_file
    folder = shared / "golden" / "birefnet"
    reference = load_file(folder / "golden_refine_foreground.safetensors")
    for case, (height, width, seed) in {
        "200x152_s3": (200, 152, 3),
        "96x120_s4": (96, 120, 4),
    }.items():
        image = _reference_image(folder, height, width, seed)
        alpha = reference[f"{case}/alpha"]
        where = np.flatnonzero((alpha > 0) & (alpha < 255))
        found = estimate_foreground(image, alpha.astype(np.float32) / 255, where).astype(int)
        truncated = reference[f"{case}/fg_cv2_u8"].reshape(-1, 3)[where]
        assert np.abs(found - truncated).max() <= 1


def _reference_image(folder, height, width, seed):
    source = {}
    exec(compile((folder / "recipe.py").read_text(), "recipe.py", "exec"), source)
    return np.ascontiguousarray(source["image_u8"](height, width, seed))
