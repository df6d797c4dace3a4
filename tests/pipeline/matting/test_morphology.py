"""Discs of any radius, and holes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.matting.morphology import dilate, erode, fill_holes, make_disc, white_top_hat


@pytest.fixture
def plane():
    return np.random.default_rng(0).random((40, 50), np.float32)


def point(size=21):
    matte = np.zeros((size, size), np.float32)
    matte[size // 2, size // 2] = 1
    return matte


def test_a_disc_holds_the_centres_within_its_radius():
    assert make_disc(1).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    for radius in (2, 4, 9):
        found = {(y - radius, x - radius) for y, x in np.argwhere(make_disc(radius)).tolist()}
        square = range(-radius, radius + 1)
        assert found == {(y, x) for y in square for x in square if y * y + x * x <= radius * radius}


@pytest.mark.parametrize("radius", [1, 3, 8, 17, 64])
def test_a_point_grows_to_a_disc(radius):
    size = 2 * radius + 1
    assert np.array_equal(dilate(point(size), radius), make_disc(radius))
    assert np.array_equal(erode(1 - point(size), radius), 1 - make_disc(radius))


@pytest.mark.parametrize("radius", [9, 30])
@pytest.mark.parametrize("size", [(90, 70), (5, 200), (1, 1), (200, 3)])
def test_a_large_disc_is_no_other_for_being_taken_in_rows(radius, size):
    noise = np.random.default_rng(0).random(size, np.float32)
    whole = make_disc(radius)
    assert np.array_equal(dilate(noise, radius), cv2.dilate(noise, whole))
    assert np.array_equal(erode(noise, radius), cv2.erode(noise, whole))


def test_no_radius_changes_nothing(plane):
    assert np.array_equal(dilate(plane, 0), plane)
    assert np.array_equal(erode(plane, 0.0), plane)


def test_between_whole_radii_the_result_is_in_proportion(plane):
    quarter = dilate(plane, 2) + 0.25 * (dilate(plane, 3) - dilate(plane, 2))
    assert np.allclose(dilate(plane, 2.25), quarter, atol=1e-6)
    assert (erode(plane, 2.25) >= erode(plane, 3)).all()


def test_eroding_is_dilating_the_background(plane):
    for radius in (0.05, 1, 2.5):
        assert np.allclose(erode(plane, radius), 1 - dilate(1 - plane, radius), atol=1e-6)


def test_the_largest_value_is_taken_by_definition(plane):
    reach, grown = 3, dilate(plane, 3)
    padded = np.pad(plane, reach, constant_values=-1)
    for y, x in [(0, 0), (5, 7), (39, 49), (20, 0)]:
        around = padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1]
        assert grown[y, x] == around[make_disc(reach) > 0].max()


def test_the_image_border_is_no_background():
    assert (erode(np.ones((9, 9), np.float32), 3) == 1).all()


def test_a_top_hat_finds_strands_and_leaves_bodies():
    matte = np.zeros((60, 60), np.float32)
    matte[20:50, 10:50] = 1
    matte[2:20, 30] = 0.6
    found = white_top_hat(matte, 4)
    assert found[5, 30] == pytest.approx(0.6)
    assert found[25:45, 15:45].max() == 0


def ring(hole):
    """A subject of 100 x 100 pixels with a square hole in it."""
    matte = np.zeros((140, 140), np.float32)
    matte[20:120, 20:120] = 1
    matte[70 : 70 + hole, 70 : 70 + hole] = 0.2
    return matte


def test_a_small_hole_is_filled_and_a_large_one_is_the_subjects_shape():
    filled = fill_holes(ring(9))
    assert filled[20:120, 20:120].min() == 1
    assert np.array_equal(fill_holes(ring(11)), ring(11))


def soft_ring(body, hole=4):
    """A subject of one opacity, with a hole whose edge is soft, in an empty picture."""
    y, x = np.indices((160, 160)) - 80.0
    outer = np.clip((60 - np.hypot(y, x)) / 3, 0, 1)
    inner = np.clip((np.hypot(y, x) - hole) / 4 + 0.5, 0, 1)
    return (body * outer * inner).astype(np.float32)


def test_a_hole_is_filled_with_its_soft_rim_and_the_outline_stays():
    matte = soft_ring(1.0)
    filled = fill_holes(matte)
    y, x = np.indices(matte.shape) - 80
    inside = np.hypot(y, x) < 50
    assert (filled[inside] == 1).all()
    assert np.array_equal(filled[~inside], matte[~inside])


def test_a_hole_in_glass_leaves_the_glass():
    matte = soft_ring(0.7)
    changed = fill_holes(matte) != matte
    assert changed.any()
    assert np.count_nonzero(changed) < 3 * np.pi * 4**2


def test_filling_never_lowers_a_matte(plane):
    assert (fill_holes(plane) >= plane).all()


def test_what_is_open_to_the_border_is_no_hole():
    matte = np.ones((80, 80), np.float32)
    matte[:3, 40] = 0
    assert np.array_equal(fill_holes(matte), matte)


def test_pieces_of_background_touch_by_sides_only():
    matte = np.ones((80, 80), np.float32)
    matte[0, 39] = 0
    matte[1, 40] = 0
    filled = fill_holes(matte)
    assert (filled[0, 39], filled[1, 40]) == (0, 1)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_flat_matte_has_no_holes(value):
    flat = np.full((30, 30), value, np.float32)
    assert np.array_equal(fill_holes(flat), flat)


def test_small_holes_are_filled_as_in_the_reference(shared):
    """Its other hole is larger than we fill; a soft rim around both is not."""
    folder = shared / "golden" / "comfyui"
    matte = np.asarray(Image.open(folder / "in_holes.png"), np.float32) / 255
    binary = (matte > 0).astype(np.float32)
    reference = np.asarray(Image.open(folder / "me_holes__fill_holes.png"), np.float32) / 255
    filled = fill_holes(binary)
    changed = filled != binary
    assert np.count_nonzero(changed) == 37
    assert np.array_equal(filled[changed], reference[changed])
