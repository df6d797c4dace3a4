"""Camera RAW: recognized by its content, decoded by LibRaw, refused with the right code."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.decode import decode, read_pixel_count, validate_header
from bgpipe.pipeline.images.formats import RAW, detect_format
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.storage.base import RAW_SUFFIXES

from .files import CFA, LIMITS, dng, mosaic, saved, scene, tiff

rawpy = pytest.importorskip("rawpy")

SRGB_OF = {40_000: 205, 20_000: 150, 10_000: 109, 5_000: 79}
"""Linear samples of 16 bits, and what the curve of sRGB (IEC 61966-2-1) makes of them."""


def flat(*rgb, height=64, width=96):
    return np.broadcast_to(np.array(rgb, np.uint16), (height, width, 3)).copy()


def halves():
    """Another color above than below."""
    linear = flat(40_000, 20_000, 10_000)
    linear[:32] = (5_000, 10_000, 20_000)
    return linear


def code_of(data, limits=LIMITS):
    with pytest.raises(PermanentError) as caught:
        decode(data, limits)
    return caught.value.code


def expected(linear):
    return np.vectorize(SRGB_OF.get)(linear)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_colors_are_those_of_the_sensor_in_srgb(order):
    linear = halves()
    picture = decode(dng(mosaic(linear), order=order), LIMITS)
    assert (picture.alpha, picture.icc, picture.rgb16, picture.frames) == (None, None, None, 1)
    assert picture.rgb.shape == (64, 96, 3)
    far = np.r_[0:28, 36:64]  # from the edge, which demosaicing blurs
    assert np.abs(picture.rgb[far] - expected(linear)[far]).max() <= 1


def test_the_white_balance_is_the_cameras():
    neutral = (0.5, 1, 0.25)
    linear = flat(*(round(40_000 * part) for part in neutral))
    picture = decode(dng(mosaic(linear), neutral=neutral), LIMITS)
    assert np.ptp(picture.rgb[8:-8, 8:-8].astype(int), axis=2).max() <= 1


def test_a_dark_photo_stays_dark():
    picture = decode(dng(mosaic(flat(5_000, 5_000, 5_000))), LIMITS)
    assert np.abs(picture.rgb.astype(int) - SRGB_OF[5_000]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation):
    linear = halves()
    linear[:, :48] //= 2
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = decode(dng(mosaic(linear)), LIMITS).rgb
    turned = decode(saved(Image.fromarray(upright), "PNG", exif=exif), LIMITS).rgb
    data = dng(mosaic(linear), orientation=orientation)
    assert np.array_equal(decode(data, LIMITS).rgb, turned)
    assert read_pixel_count(data, LIMITS) == 64 * 96


def test_16_bits_are_there_when_asked_for():
    data = dng(mosaic(halves()))
    picture = decode(data, LIMITS, keep_16_bits=True)
    assert picture.rgb16.dtype == np.uint16
    assert np.array_equal(picture.rgb, decode(data, LIMITS).rgb)
    assert np.array_equal(picture.rgb, picture.rgb16 >> 8)
    assert len(np.unique(picture.rgb16 & 255)) > 3


def test_a_sensor_without_color_filters_gives_grey():
    grey = {262: (3, [34892]), 33421: None, 33422: None, 50721: None, 50728: None}
    picture = decode(dng(flat(20_000, 0, 0)[..., 0], changes=grey), LIMITS)
    assert picture.rgb.shape == (64, 96, 3)
    assert (picture.rgb == picture.rgb[..., :1]).all()
    assert np.abs(picture.rgb.astype(int) - SRGB_OF[20_000]).max() <= 1


def test_a_photo_has_a_thumbnail():
    assert render_thumbnail(dng(mosaic(halves())), LIMITS, 20)[8:12] == b"WEBP"


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_truncated(share):
    data = dng(mosaic(halves()))
    assert code_of(data[: int(len(data) * share)]) is Code.TRUNCATED


def test_a_header_that_promises_more_than_the_file_holds_is_truncated():
    data = dng(mosaic(halves()), changes={256: (4, [960]), 257: (4, [640])})
    assert code_of(data) is Code.TRUNCATED


def test_the_size_is_judged_from_the_header():
    data = dng(mosaic(halves()))
    assert code_of(data, Limits(64 * 96 - 1, 100, 10**6)) is Code.TOO_LARGE
    assert code_of(data, Limits(10**6, 95, 10**6)) is Code.TOO_LARGE
    assert code_of(data, Limits(10**6, 100, len(data) - 1)) is Code.TOO_LARGE
    assert decode(data, Limits(64 * 96, 96, len(data))).rgb.shape == (64, 96, 3)
    huge = dng(mosaic(halves()), changes={256: (4, [60_000]), 257: (4, [60_000])})
    with pytest.raises(PermanentError) as caught:
        read_pixel_count(huge, LIMITS)
    assert caught.value.code is Code.TOO_LARGE


@pytest.mark.parametrize(
    "data",
    [
        dng(mosaic(halves()), changes={259: (3, [99])}),
        b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 100,
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + b"\0" * 100,
        b"FUJIFILMCCD-RAW 0201" + b"\0" * 200,
        b"IIRO\x08\0\0\0" + b"\0" * 100,
        b"IIU\0\x08\0\0\0" + b"\0" * 100,
    ],
)
def test_a_kind_that_libraw_does_not_read_says_so(data):
    assert detect_format(data) in RAW
    assert code_of(data) is Code.UNSUPPORTED


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (b"NIKON CORPORATION", "NEF"),
        (b"SONY", "ARW"),
        (b"PENTAX", "PEF"),
        (b"SAMSUNG", "SRW"),
        (b"Hasselblad", "DNG"),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_sensor_samples_is_raw_by_whatever_directory_holds_them(make, name, order):
    preview = {254: (4, [1]), 262: (3, [2]), 271: (2, [*make, 0]), 330: (4, [0])}
    sensor = {254: (4, [0]), 262: (3, [CFA]), 273: (4, [0])}
    assert detect_format(tiff(preview, b"", order, sensor)) == name
    assert f".{name.lower()}" in RAW_SUFFIXES


def test_a_dng_of_a_maker_with_a_detect_format_its_own_is_a_dng():
    assert detect_format(dng(mosaic(halves()), make=b"NIKON CORPORATION")) == "DNG"


def test_every_format_has_a_name_that_is_listed():
    assert {f".{name.lower()}" for name in RAW} == RAW_SUFFIXES


def test_an_ordinary_tiff_of_a_cameras_maker_stays_a_tiff():
    exif = Image.Exif()
    exif[271], exif[330] = "NIKON CORPORATION", 8
    data = saved(Image.fromarray(scene()), "TIFF", exif=exif)
    assert detect_format(data) == "TIFF"
    assert np.array_equal(decode(data, LIMITS).rgb, scene())


def test_an_upload_is_vetted_by_its_header():
    data = dng(mosaic(halves()))
    assert validate_header(data, LIMITS) == "DNG"
    with pytest.raises(PermanentError) as caught:
        validate_header(data, Limits(100, 100, 10**6))
    assert caught.value.code is Code.TOO_LARGE


@pytest.mark.parametrize("loop", [8, 0, 2**32 - 1])
def test_directories_that_lead_nowhere_end(loop):
    preview = {262: (3, [2]), 330: (4, [0])}
    data = bytearray(tiff(preview, b"", sub={262: (3, [2])}))
    at = data.index(struct.pack("<HHI", 330, 4, 1)) + 8
    data[at : at + 4] = struct.pack("<I", loop)
    assert detect_format(bytes(data)) == "TIFF"


def test_without_rawpy_a_raw_name_is_ignored_and_a_raw_file_names_the_extra():
    program = """
import sys
sys.modules["rawpy"] = None  # as if it were not installed
from bgpipe.pipeline.errors import PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.storage.base import is_image_name, reads_raw
print(reads_raw(), is_image_name("a.dng"), is_image_name("a.jpg"))
try:
    decode(sys.stdin.buffer.read(), Limits(10**6, 10**3, 10**6))
except PermanentError as error:
    print(error)
"""
    data = dng(mosaic(halves()))
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
    listed, refused = done.stdout.decode().splitlines()
    assert listed == "False False True"
    assert refused.startswith("E_UNSUPPORTED")
    assert "pip install 'bgpipe[raw]'" in refused
