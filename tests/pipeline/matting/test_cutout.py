"""The way from picture and matte to the cutout's pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.types import DecodedImage, Matte, Preset


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def matte_of(levels):
    return Matte(np.asarray(levels, np.float32) / np.float32(255))


def disc_matte(size=64):
    y, x = np.mgrid[:size, :size] - size // 2
    return Matte(np.clip((size / 3 - np.hypot(x, y)) / 6 + 0.5, 0, 1).astype(np.float32))


@pytest.fixture(params=["balanced", "products", "portraits", "raw"])
def preset(request, presets):
    return presets[request.param]


def test_raw_alpha_is_the_networks_level_for_level(presets):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgba = cut_out(DecodedImage(noise(16, 16)), matte_of(levels), presets["raw"]).rgba
    assert np.array_equal(rgba[..., 3], levels)


def test_alpha_is_rounded_to_the_nearest_level(presets):
    matte = Matte(np.array([[0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255]], np.float32))
    alpha = cut_out(DecodedImage(noise(1, 4)), matte, presets["raw"]).rgba[..., 3]
    assert alpha.tolist() == [[0, 1, 254, 255]]


@pytest.mark.parametrize("size", [(200, 300), (40, 30), (64, 500), (1, 1), (1, 900)])
def test_opaque_pixels_are_the_sources_and_transparent_ones_are_nothing(preset, size):
    rgb = noise(*size)
    rgba = cut_out(DecodedImage(rgb), disc_matte(), preset).rgba
    opaque, transparent = rgba[..., 3] == 255, rgba[..., 3] == 0
    assert rgba.shape == (*size, 4)
    assert np.array_equal(rgba[opaque, :3], rgb[opaque])
    assert not rgba[transparent].any()


def test_soft_pixels_change_colour_only_where_the_preset_asks_for_it():
    rgb = noise(64, 64)
    kept = cut_out(DecodedImage(rgb), disc_matte(), Preset(foreground=False)).rgba
    estimated = cut_out(DecodedImage(rgb), disc_matte(), Preset()).rgba
    soft = (kept[..., 3] > 0) & (kept[..., 3] < 255)
    assert np.array_equal(kept[soft, :3], rgb[soft])
    assert (estimated[soft, :3] != rgb[soft]).any()
    assert np.array_equal(estimated[..., 3], kept[..., 3])


def test_the_pictures_own_alpha_is_multiplied(presets):
    own = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgba = cut_out(
        DecodedImage(noise(16, 16), own), matte_of(np.full((16, 16), 128)), presets["raw"]
    ).rgba
    assert np.array_equal(rgba[..., 3], np.rint(own * (128 / 255)))


def test_a_solid_matte_keeps_the_pictures_own_alpha_and_colours(presets):
    own = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = noise(16, 16)
    rgba = cut_out(DecodedImage(rgb, own), matte_of(np.full((16, 16), 255)), presets["raw"]).rgba
    assert np.array_equal(rgba[..., 3], own)
    assert np.array_equal(rgba[own > 0, :3], rgb[own > 0])


def test_a_cutout_of_a_cutout_keeps_its_colours(preset):
    """Its hidden black is no background to be taken out of its edges."""
    first = cut_out(DecodedImage(noise(64, 64)), disc_matte(), preset).rgba
    again = cut_out(DecodedImage(first[..., :3], first[..., 3]), disc_matte(), preset).rgba
    visible = again[..., 3] > 0
    assert np.array_equal(again[visible, :3], first[visible, :3])


def test_colours_are_those_of_the_mixture_not_of_the_finish(presets):
    """A blurred edge makes pixels soft that the photo shows unmixed."""
    x = np.indices((80, 80))[1]
    edge = np.clip((40 - x) / 2, 0, 1).astype(np.float32)
    subject, ground = np.array([200, 60, 40]), np.array([20, 60, 220])
    rgb = np.rint(edge[..., None] * subject + (1 - edge[..., None]) * ground).astype(np.uint8)
    rgba = cut_out(DecodedImage(rgb), Matte(edge), presets["portraits"]).rgba
    unmixed, outside = (rgba[..., 3] < 255) & (x < 38), (rgba[..., 3] > 0) & (x > 40)
    assert np.count_nonzero(unmixed) > 100
    assert np.array_equal(rgba[unmixed, :3], rgb[unmixed])
    assert np.count_nonzero(outside) > 100
    opacity = rgba[outside, 3:] / 255
    assert (opacity * np.abs(rgba[outside, :3].astype(int) - subject)).mean() < 2


def test_nothing_given_is_changed(preset):
    picture, matte = DecodedImage(noise(90, 70)), disc_matte()
    before = picture.rgb.copy(), matte.alpha.copy()
    cut_out(picture, matte, preset)
    assert np.array_equal(picture.rgb, before[0])
    assert np.array_equal(matte.alpha, before[1])


def test_read_only_pixels_are_enough(preset):
    rgb = noise(90, 70)
    rgb.flags.writeable = False
    assert cut_out(DecodedImage(rgb), disc_matte(), preset).rgba.shape == (90, 70, 4)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.builds(
        Preset,
        contrast=st.floats(0.1, 4),
        dilate=st.floats(0, 6),
        erode=st.floats(0, 6),
        blur=st.floats(0, 4),
        smooth=st.booleans(),
        threshold=st.booleans(),
        fill_holes=st.booleans(),
        invert=st.booleans(),
        foreground=st.booleans(),
    ),
)
def test_any_preset_keeps_the_contract_of_a_cutout(size, preset):
    rgb = noise(*size)
    rgba = cut_out(DecodedImage(rgb), disc_matte(), preset).rgba
    opaque = rgba[..., 3] == 255
    assert np.array_equal(rgba[opaque, :3], rgb[opaque])
    assert not rgba[rgba[..., 3] == 0].any()
