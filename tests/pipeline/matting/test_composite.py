"""Catalogue pictures: exact geometry, exact colours, a shadow where the subject stands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.matting.composite import PixelBox, blur_photo, find_subject_box, layout
from bgpipe.pipeline.matting.composite import composite as finish_within
from bgpipe.pipeline.types import Cutout, Preset

WHITE = np.full((1, 1, 3), 255, np.uint8)


def finish(made, preset, ground, outline=None):
    return finish_within(made, preset, ground, 10**6, outline)


def cutout(height=100, width=80, box=(20, 30, 50, 90), colour=(10, 200, 60)):
    """An opaque block from column and row box[:2] up to box[2:]."""
    left, top, right, bottom = box
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[top:bottom, left:right] = (*colour, 255)
    return Cutout(rgba)


def block(rgba):
    return find_subject_box(rgba[..., 3])


def test_nothing_asked_for_changes_nothing():
    made = cutout()
    assert finish(made, Preset(), None).rgba is made.rgba


def test_the_subject_is_found_without_haze_and_dust():
    alpha = cutout().rgba[..., 3].copy()
    alpha[0:5, 0:70] = 10
    alpha[95:97, 70:74] = 255
    assert find_subject_box(alpha) == PixelBox(20, 30, 30, 60)


def test_a_second_piece_that_is_no_dust_belongs_to_the_subject():
    alpha = cutout().rgba[..., 3].copy()
    alpha[5:10, 60:66] = 255
    assert find_subject_box(alpha) == PixelBox(20, 5, 46, 85)


def test_a_crop_cuts_to_the_subject_with_a_margin_in_percent_of_its_longer_side():
    rgba = finish(cutout(), Preset(crop=True, margin=10), None).rgba
    assert rgba.shape == (60 + 2 * 6, 30 + 2 * 6, 4)
    assert np.array_equal(rgba[6:66, 6:36], cutout().rgba[30:90, 20:50])
    assert block(rgba) == PixelBox(6, 6, 30, 60)


def test_a_margin_reaches_beyond_the_picture():
    rgba = finish(cutout(box=(0, 0, 80, 100)), Preset(crop=True, margin=5), None).rgba
    assert rgba.shape == (110, 90, 4)
    assert block(rgba) == PixelBox(5, 5, 80, 100)


@pytest.mark.parametrize(
    ("place", "left", "top"),
    [("middle", 15, 0), ("left", 0, 0), ("right", 30, 0), ("top", 15, 0), ("bottom", 15, 0)],
)
def test_an_aspect_extends_the_crop_to_where_the_place_says(place, left, top):
    rgba = finish(cutout(), Preset(crop=True, canvas="1:1", place=place), None).rgba
    assert rgba.shape == (60, 60, 4)
    assert block(rgba) == PixelBox(left, top, 30, 60)


@pytest.mark.parametrize(("place", "top"), [("middle", 45), ("top", 0), ("bottom", 90)])
def test_an_aspect_may_extend_upwards(place, top):
    rgba = finish(cutout(), Preset(crop=True, canvas="1:5", place=place), None).rgba
    assert rgba.shape == (150, 30, 4)
    assert block(rgba) == PixelBox(0, top, 30, 60)


@pytest.mark.parametrize(
    ("canvas", "inner", "corner"),
    [("200x240", (120, 240), (40, 0)), ("90x60", (30, 60), (30, 0)), ("30x90", (30, 60), (0, 15))],
)
def test_a_canvas_holds_the_crop_as_large_as_it_fits(canvas, inner, corner):
    rgba = finish(cutout(), Preset(crop=True, canvas=canvas), None).rgba
    width, height = map(int, canvas.split("x"))
    assert rgba.shape == (height, width, 4)
    box = block(rgba)
    assert (box.width, box.height) == inner
    assert (box.left, box.top) == corner


def test_a_scaled_subject_keeps_its_colour_up_to_its_edge():
    rgba = finish(cutout(), Preset(crop=True, canvas="77x101", margin=7), None).rgba
    visible = rgba[rgba[..., 3] > 0]
    assert np.abs(visible[:, :3] - np.array([10, 200, 60])).max() <= 1
    assert not rgba[rgba[..., 3] == 0].any()


def test_without_a_subject_the_whole_picture_is_framed():
    rgba = finish(Cutout(np.zeros((10, 20, 4), np.uint8)), Preset(crop=True, canvas="1:1"), None)
    assert rgba.rgba.shape == (20, 20, 4)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    corner=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    margin=st.floats(0, 100),
    sides=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    separator=st.sampled_from("x:"),
    place=st.sampled_from(["middle", "top", "bottom", "left", "right"]),
)
def test_a_frame_holds_the_subject_and_its_margin_exactly(
    height, width, corner, margin, sides, separator, place
):
    alpha = np.zeros((height, width), np.uint8)
    top, left = int(corner[0] * (height - 1)), int(corner[1] * (width - 1))
    alpha[top:, left:] = 255
    preset = Preset(
        crop=True, margin=margin, canvas=f"{sides[0]}{separator}{sides[1]}", place=place
    )
    made = layout(alpha, preset)
    room = round(margin / 100 * max(height - top, width - left))
    assert made.box.left <= left - room
    assert made.box.top <= top - room
    assert made.box.left + made.box.width >= width + room
    assert made.box.top + made.box.height >= height + room
    assert 0 <= made.at[0] <= made.size[0] - made.inner[0]
    assert 0 <= made.at[1] <= made.size[1] - made.inner[1]
    if separator == "x":
        assert made.size == sides
        assert made.inner[0] == made.size[0] or made.inner[1] == made.size[1]
    else:
        across, down = made.size[0] * sides[1], made.size[1] * sides[0]
        assert abs(across - down) < max(sides)


def test_a_ground_is_seen_around_and_through_the_subject():
    made = cutout()
    made.rgba[30, 20:50] = (100, 0, 200, 51)
    rgba = finish(made, Preset(), WHITE).rgba
    assert (rgba[..., 3] == 255).all()
    assert (rgba[0, 0, :3] == 255).all()
    assert rgba[30, 25].tolist() == [224, 204, 244, 255]
    assert np.array_equal(rgba[31:90, 20:50], made.rgba[31:90, 20:50])


def test_an_image_covers_the_canvas_and_is_cut_at_its_middle():
    ground = np.zeros((10, 40, 3), np.uint8)
    ground[:, 16:24] = 255  # a canvas of 80 x 100 shows these 8 of 40 columns
    made = Cutout(np.zeros((100, 80, 4), np.uint8))
    rgba = finish(made, Preset(), ground).rgba
    assert rgba.shape == (100, 80, 4)
    assert (rgba[50, 8:72, :3] > 250).all()


def test_a_shadow_lies_below_the_subject_and_nowhere_else():
    made = cutout(200, 200, (60, 40, 140, 150))
    rgba = finish(made, Preset(shadow=0.5), None).rgba
    assert np.array_equal(rgba[40:150, 60:140], made.rgba[40:150, 60:140])
    alpha = rgba[..., 3]
    assert 60 < alpha[152, 100] <= 128
    assert not rgba[160, :, :3].any()
    assert not alpha[:120, :50].any()
    assert not alpha[175:].any()
    assert not rgba[alpha == 0].any()


def test_a_shadow_darkens_its_ground():
    made = cutout(200, 200, (60, 40, 140, 150))
    rgba = finish(made, Preset(shadow=0.5), WHITE).rgba
    assert (rgba[..., 3] == 255).all()
    assert 120 < rgba[152, 100, 0] < 200
    assert (rgba[10, 10, :3] == 255).all()


def test_an_empty_cutout_throws_no_shadow():
    assert not finish(Cutout(np.zeros((9, 9, 4), np.uint8)), Preset(shadow=1), None).rgba.any()


@pytest.mark.parametrize("canvas", ["0x5", "5x0", "x", "5", "5:", "10000x5", "5x5x5", "-1x4"])
def test_a_canvas_that_is_none_is_refused(canvas):
    with pytest.raises(ValueError, match="canvas"):
        Preset(canvas=canvas)


@pytest.mark.parametrize("preset", [Preset(canvas="9999:1"), Preset(canvas="1001x1000")])
def test_a_canvas_beyond_the_limit_is_too_large(preset):
    with pytest.raises(PermanentError) as caught:
        finish(cutout(), preset, None)
    assert caught.value.code is Code.TOO_LARGE


def soft_disc(height, width, center, radius):
    """An alpha that falls from 255 to 0 over four pixels."""
    y, x = np.mgrid[:height, :width]
    inside = radius - np.hypot(y - center[0], x - center[1])
    return np.clip(255 * (inside / 4 + 0.5), 0, 255).astype(np.uint8)


def over(top, bottom):
    """`top` over `bottom`, both RGBA in [0, 1] with straight alpha (Porter and Duff 1984)."""
    alpha = top[..., 3:] + (1 - top[..., 3:]) * bottom[..., 3:]
    mixed = top[..., :3] * top[..., 3:] + (1 - top[..., 3:]) * bottom[..., 3:] * bottom[..., :3]
    return np.concatenate([mixed / np.maximum(alpha, 1e-9), alpha], axis=2)


@pytest.mark.parametrize("ground", [None, np.full((1, 1, 3), (30, 60, 90), np.uint8)])
def test_an_outline_is_the_disc_around_each_pixel_of_the_subject_below_it(ground):
    rgba = np.zeros((40, 50, 4), np.uint8)
    rgba[..., 3] = soft_disc(40, 50, (20, 24), 9)
    rgba[rgba[..., 3] > 0, :3] = (10, 200, 60)
    color = np.array([[[250, 20, 120]]], np.uint8)
    made = finish(Cutout(rgba.copy()), Preset(outline="5:#fa1478"), ground, color).rgba
    rows, columns = np.nonzero(rgba[..., 3] >= 128)
    y, x = np.mgrid[:40, :50]
    distance = np.hypot(y[..., None] - rows, x[..., None] - columns).min(axis=2)
    alpha = np.clip(5.5 - distance, 0, 1)[..., None]
    below = np.concatenate([np.broadcast_to(color / 255, (40, 50, 3)), alpha], axis=2)
    expected = over(rgba / 255, below)
    if ground is not None:
        opaque = np.concatenate(
            [np.broadcast_to(ground / 255, (40, 50, 3)), np.ones((40, 50, 1))], 2
        )
        expected = over(expected, opaque)
    seen = expected[..., 3] > 0.02
    assert np.abs(made[..., 3] - 255 * expected[..., 3]).max() <= 1
    # Where little is seen of a color, its eight bits of alpha were rounded.
    assert np.abs((made[..., :3] - 255 * expected[..., :3]) * expected[..., 3:])[seen].max() <= 1.5
    solid = rgba[..., 3] == 255
    assert np.array_equal(made[solid], rgba[solid])


def test_dust_has_no_outline_and_neither_has_nothing():
    made = cutout()
    made.rgba[95, 70] = 255
    rgba = finish(made, Preset(outline="3:white"), None, WHITE).rgba
    assert (rgba[28, 20:50] == 255).all()
    assert not rgba[90:95, 60:].any()
    assert not finish(
        Cutout(np.zeros((9, 9, 4), np.uint8)), Preset(outline="3:white"), None, WHITE
    ).rgba.any()


def gaussian(sigma, length):
    offsets = np.arange(-length, length + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return weights / weights.sum()


def blurred(plane, sigma):
    """The plane convolved with a Gaussian, its border pixels repeated beyond it."""
    length = int(4 * sigma)
    kernel = gaussian(sigma, length)
    for axis in (0, 1):
        pad = [(length, length) if each == axis else (0, 0) for each in (0, 1)]
        padded = np.pad(plane, pad, "edge")
        plane = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
    return plane


@pytest.mark.parametrize(("sigma", "tolerance"), [(3, 1.5), (12, 4)])
def test_the_blurred_photo_is_the_mean_of_the_background_alone(sigma, tolerance):
    """Without the subject's red in it; large radii are computed on a smaller copy."""
    y, x = np.mgrid[:90, :120]
    rgb = np.stack([40 + y / 2, 60 + x, 200 - y], axis=2)
    alpha = soft_disc(90, 120, (45, 50), 20)
    rgb[alpha == 255] = (255, 0, 0)
    rgb = rgb.astype(np.uint8)
    weight = 1 + 1 / 255 - alpha / 255
    planes = [blurred(rgb[..., i] * weight, sigma) / blurred(weight, sigma) for i in range(3)]
    made = blur_photo(rgb, alpha, Preset(background=f"blur:{sigma}"))
    assert np.abs(made - np.stack(planes, axis=2))[alpha < 128].max() <= tolerance
    around = (alpha == 0) & (soft_disc(90, 120, (45, 50), 24) > 0)
    assert made[around, 0].max() < 95
    assert blur_photo(rgb, alpha, Preset(background="white")) is None


@pytest.mark.parametrize(
    ("preset", "size"),
    [
        (Preset(size="40x40"), (40, 32)),
        (Preset(size="40x20"), (20, 16)),
        (Preset(size="400x400"), (100, 80)),
        (Preset(size="400x400", enlarge=True), (400, 320)),
        (Preset(size="30x30", crop=True), (30, 15)),
        (Preset(size="30x30", crop=True, canvas="1:1"), (30, 30)),
    ],
)
def test_a_size_is_fitted_into_and_enlarges_only_on_request(preset, size):
    assert finish(cutout(), preset, None).rgba.shape == (*size, 4)


def test_a_size_that_changes_nothing_keeps_every_pixel():
    assert np.array_equal(finish(cutout(), Preset(size="999x999"), None).rgba, cutout().rgba)


@pytest.mark.parametrize(
    "values",
    [
        {"size": "0x5"},
        {"size": "4:5"},
        {"outline": "white"},
        {"outline": "0:white"},
        {"outline": "3:teal"},
        {"background": "blur:"},
        {"background": "blur:0"},
        {"background": "blur:1000"},
    ],
)
def test_a_finish_of_another_form_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Preset(**values)
