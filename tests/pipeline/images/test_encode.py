"""Cutouts as files: pixels, profile, resolution and identity come back, in every format."""

from __future__ import annotations

import io
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import provenance
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Output, Preset

from .files import LIMITS, SRGB, png_of_16_bits, saved, scene

TEXT = {"bgpipe:recipe": '{"hash":"0123","model":"<a> & \'b\'"}', "bgpipe:source": "1-2"}
FORMATS = ("png", "webp", "avif", "jpeg", "mask", "zip")


def cutout(height=60, width=90):
    """A disc with a soft edge, its background zeroed."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2) / (0.4 * min(height, width))
    alpha = np.clip((1.1 - distance) * 1000, 0, 255).astype(np.uint8)
    rgb = np.where((alpha == 0)[..., None], 0, scene(height, width))
    return Cutout(np.dstack([rgb, alpha]).astype(np.uint8))


def written(made, output, picture=None):
    return encode(made, picture or DecodedImage(scene(), icc=SRGB, dpi=(300, 150)), output, TEXT)


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("compression", ["fast", "small"])
def test_every_format_says_how_it_was_made_and_whether_it_is_whole(file_format, compression):
    data = written(cutout(), Output(format=file_format, compression=compression))
    assert provenance.read(data[: provenance.HEAD], data[-provenance.TAIL :]) == TEXT
    for end in (len(data) - 1, len(data) // 2, 100):
        assert provenance.read(data[:end][: provenance.HEAD], data[:end][-provenance.TAIL :]) == {}


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_same_cutout_gives_the_same_bytes(file_format):
    output = Output(format=file_format)
    assert written(cutout(), output) == written(cutout(), output)


@pytest.mark.parametrize("compression", ["fast", "small"])
def test_a_png_has_the_pixels_the_profile_and_the_resolution(compression):
    image = opened(written(cutout(), Output(compression=compression)))
    assert np.array_equal(np.asarray(image), cutout().rgba)
    assert image.info["icc_profile"] == SRGB
    assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    assert image.info["bgpipe:source"] == "1-2"


def test_a_small_png_is_smaller():
    photo = np.random.default_rng(0).normal(128, 9, (200, 300, 4)).clip(0, 255).astype(np.uint8)
    made = Cutout(cv2.GaussianBlur(photo, (5, 5), 0))
    fast, small = (written(made, Output(compression=kind)) for kind in ("fast", "small"))
    assert len(small) < len(fast)


def test_a_webp_of_quality_100_is_lossless():
    image = opened(written(cutout(), Output(format="webp", quality=100)))
    assert np.array_equal(np.asarray(image), cutout().rgba)
    assert image.info["icc_profile"] == SRGB


@pytest.mark.parametrize("file_format", ["webp", "avif"])
def test_lossy_formats_keep_the_shape_and_nearly_the_colours(file_format):
    made = cutout()
    image = opened(written(made, Output(format=file_format)))
    found = np.asarray(image).astype(int)
    assert (image.format, image.mode) == (file_format.upper(), "RGBA")
    assert image.info["icc_profile"] == SRGB
    assert np.abs(found[..., 3] - made.rgba[..., 3]).mean() < 2
    opaque = made.rgba[..., 3] == 255
    assert np.abs(found - made.rgba)[opaque].mean() < 12


def test_a_jpeg_has_the_colours_the_profile_and_the_resolution():
    made = Cutout(np.dstack([scene(), np.full((60, 90), 255, np.uint8)]))
    image = opened(written(made, Output(format="jpeg")))
    assert np.abs(np.asarray(image) - made.rgba[..., :3].astype(int)).mean() < 3
    assert (image.mode, image.info["icc_profile"], image.info["dpi"]) == ("RGB", SRGB, (300, 150))


def test_a_mask_is_the_alpha_as_a_grey_png():
    image = opened(written(cutout(), Output(format="mask")))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), cutout().rgba[..., 3])


def test_a_zip_holds_colours_without_an_edge_and_the_alpha():
    made = cutout()
    with zipfile.ZipFile(io.BytesIO(written(made, Output(format="zip")))) as archive:
        colour = opened(archive.read("colour.jpg"))
        alpha = opened(archive.read("alpha.png"))
    assert np.array_equal(np.asarray(alpha), made.rgba[..., 3])
    assert np.abs(np.asarray(colour) - scene().astype(int)).mean() < 3
    assert colour.info["icc_profile"] == SRGB


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_has_a_thumbnail(file_format):
    small = opened(render_thumbnail(written(cutout(), Output(format=file_format)), LIMITS, 45))
    assert (small.format, small.size) == ("WEBP", (45, 30))
    assert (small.mode == "RGBA") == (file_format not in ("jpeg", "mask"))


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"PK\3\4"])
def test_a_damaged_zip_has_none(damage):
    with pytest.raises(PermanentError) as raised:
        render_thumbnail(damage(written(cutout(), Output(format="zip"))), LIMITS, 45)
    assert raised.value.code == Code.TRUNCATED


def test_a_picture_of_16_bits_is_written_with_all_of_them_when_asked_for():
    samples = np.random.default_rng(4).integers(0, 2**16, (20, 30, 3), np.uint16)
    picture = decode(png_of_16_bits(samples), LIMITS, True)
    alpha = np.zeros((20, 30), np.float32)
    alpha[:, 8:] = 0.5
    alpha[:, 16:] = 1
    made = cut_out(picture, Matte(alpha), Preset(foreground=False))
    data = encode(made, picture, Output(depth=16), TEXT)
    bgra = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgra.dtype == np.uint16
    assert np.array_equal(bgra[..., 3] // 257, made.rgba[..., 3])
    assert np.array_equal(bgra[:, 8:, 2::-1], samples[:, 8:])
    assert not bgra[:, :8].any()


def test_16_bits_of_a_soft_edge_follow_its_estimated_colour():
    deep = np.full((1, 3, 3), 300, np.uint16)
    picture = DecodedImage((deep >> 8).astype(np.uint8), rgb16=deep)
    rgba = np.array([[[1, 1, 1, 255], [11, 0, 1, 100], [0, 0, 0, 0]]], np.uint8)
    data = encode(Cutout(rgba), picture, Output(depth=16), {})
    bgra = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgra[0].tolist() == [
        [300, 300, 300, 65535],
        [300, 43, 300 + 10 * 257, 25700],
        [0, 0, 0, 0],
    ]


def test_a_source_of_8_bits_is_written_with_8():
    data = encode(cutout(), DecodedImage(scene()), Output(depth=16), {})
    assert np.array_equal(np.asarray(opened(data)), cutout().rgba)


@pytest.mark.parametrize("file_format", ["webp", "avif", "jpeg", "zip"])
def test_a_side_that_a_format_cannot_hold_is_too_large(file_format):
    long = Cutout(np.zeros((1, 70_000, 4), np.uint8))
    with pytest.raises(PermanentError) as caught:
        encode(long, DecodedImage(long.rgba[..., :3]), Output(format=file_format), {})
    assert caught.value.code is Code.TOO_LARGE
    assert encode(long, DecodedImage(long.rgba[..., :3]), Output(), {})


@pytest.mark.parametrize("value", ['{"a":"b"}', "<&>\"'", "größe 写真", "line\nbreak\ttab", ""])
def test_any_text_comes_back_from_its_packet(value):
    packet = provenance.xmp_packet({"bgpipe:source": value})
    assert provenance.read(b"RIFF", packet) == {"bgpipe:source": value}
    assert len(packet) % 2 == 0
    assert provenance.read(b"RIFF", packet + b"of another file") == {}


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xd9", b"PK\x05\x06", b"RIFF....WEBP"])
def test_a_file_of_others_says_nothing(data):
    assert provenance.read(data, data) == {}


@settings(max_examples=150, deadline=None)
@given(
    rgb=arrays.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3))),
    orientation=st.integers(1, 8),
    icc=st.sampled_from([None, SRGB]),
    file_format=st.sampled_from(["PNG", "WEBP", "TIFF"]),
    strip=st.sampled_from([1, 1, 200]),
    opaque=st.floats(0, 1),
)
def test_decoding_encoding_and_decoding_again_keeps_opaque_pixels(
    rgb, orientation, icc, file_format, strip, opaque
):
    rgb = np.tile(rgb, (1, strip, 1))
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = saved(Image.fromarray(rgb), file_format, lossless=True, exif=exif, icc_profile=icc)
    picture = decode(source, LIMITS)
    matte = np.linspace(0, 1, picture.rgb[..., 0].size).reshape(picture.rgb.shape[:2])
    made = cut_out(picture, Matte((matte > opaque).astype(np.float32)), Preset())
    again = decode(encode(made, picture, Output(), {}), LIMITS)
    kept = made.rgba[..., 3] == 255
    assert again.rgb.shape == picture.rgb.shape
    assert np.array_equal(again.rgb[kept], picture.rgb[kept])
    assert again.icc == icc
    alpha = np.full(kept.shape, 255, np.uint8) if again.alpha is None else again.alpha
    assert np.array_equal(alpha, made.rgba[..., 3])
