"""PNGs of ours, read back by Pillow, and by cv2's own reader."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageCms

from bgpipe.pipeline.images import png, provenance

SIZES = [(1, 1), (1, 300), (300, 1), (2, 2), (7, 5), (640, 480)]


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)


def read(data):
    image = Image.open(io.BytesIO(data), formats=["PNG"])
    image.load()
    return image


@pytest.mark.parametrize("size", SIZES)
def test_pixels_come_back_as_they_were(size):
    rgba = noise(*size)
    data = png.encode(rgba, text={})
    assert np.array_equal(np.asarray(read(data)), rgba)
    bgra = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA), rgba)


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(4))),
    st.dictionaries(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=79),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        max_size=3,
    ),
)
def test_any_pixels_and_any_text_come_back(rgba, text):
    data = png.encode(rgba, text=text)
    image = read(data)
    assert np.array_equal(np.asarray(image), rgba)
    assert image.text == text
    assert png.read_text(data) == text


def test_a_view_of_a_larger_array_is_encoded_as_it_looks():
    rgba = noise(40, 50)[5:30:2, ::-3]
    assert np.array_equal(np.asarray(read(png.encode(rgba, text={}))), rgba)


def test_an_image_larger_than_a_strip_is_one_stream_in_several_chunks():
    rgba = noise(700, 1000)
    data = png.encode(rgba, text={})
    assert data.count(b"IDAT") > 1
    assert np.array_equal(np.asarray(read(data)), rgba)


def test_a_row_longer_than_a_strip_is_encoded():
    rgba = noise(2, 300_000)
    assert np.array_equal(np.asarray(read(png.encode(rgba, text={}))), rgba)


def test_the_text_is_right_behind_the_header_and_is_found_in_the_first_bytes():
    data = png.encode(noise(400, 400), text={"bgpipe:recipe": '{"hash":"1"}'}, icc=b"x" * 9000)
    assert data[37:41] == b"tEXt"
    assert png.read_text(data[:4096]) == {"bgpipe:recipe": '{"hash":"1"}'}


def test_text_beyond_latin_1_comes_back():
    data = png.encode(noise(2, 2), text={"source": "größe", "name": "写真.jpg"})
    assert png.read_text(data) == {"source": "größe", "name": "写真.jpg"}
    assert read(data).text == {"source": "größe", "name": "写真.jpg"}


def test_text_that_was_damaged_or_cut_is_not_read():
    data = bytearray(png.encode(noise(2, 2), text={"key": "value"}))
    assert png.read_text(bytes(data[:50])) == {}
    data[data.index(b"value")] ^= 1
    assert png.read_text(bytes(data)) == {}


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"not a picture at all", b"\xff\xd8\xff\xe0"])
def test_what_is_no_png_has_no_text(data):
    assert png.read_text(data) == {}


@pytest.mark.parametrize("keyword", ["", "x" * 80, "a\0b"])
def test_a_keyword_that_png_does_not_allow_is_refused(keyword):
    with pytest.raises(ValueError, match="keyword"):
        png.encode(noise(1, 1), text={keyword: "value"})


@pytest.mark.parametrize("shape", [(2,), (2, 2, 2), (2, 2, 5), (0, 2, 4), (2, 0, 4), (1, 2, 2, 4)])
def test_what_has_not_the_shape_of_an_image_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        png.encode(np.zeros(shape, np.uint8), text={})


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "shape", [(31, 17), (31, 17, 3), (31, 17, 4), (1, 1, 3), (1, 9), (9, 1, 4)]
)
def test_every_kind_and_depth_comes_back(shape, depth):
    samples = np.random.default_rng(3).integers(0, np.iinfo(depth).max, shape, depth, endpoint=True)
    data = png.encode(samples, text={})
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples.ndim == 3:  # cv2 has blue first
        found = found[..., [2, 1, 0, 3][: shape[2]]]
    assert found.dtype == depth
    assert np.array_equal(found, samples)


def test_rows_that_go_on_from_the_ones_above_and_columns_that_go_on_are_both_small():
    ramp = np.arange(400, dtype=np.uint32) ** 2 // 200 % 256
    across = np.repeat(ramp.astype(np.uint8)[None], 400, axis=0)
    noise = np.random.default_rng(5).integers(0, 256, (400, 1), np.uint8)
    down = across + noise  # each row another brightness: the one above tells nothing
    sizes = [len(png.encode(pixels, text={})) for pixels in (across, across.T.copy(), down)]
    assert max(sizes) < 400 * 400 // 15


def test_text_is_put_into_the_png_of_another_encoder():
    image = Image.fromarray(noise(9, 7))
    file = io.BytesIO()
    image.save(file, "PNG")
    data = png.annotate(file.getvalue(), text={"a": "b"}, icc=b"profile", dpi=(300, 300))
    found = read(data)
    assert np.array_equal(np.asarray(found), np.asarray(image))
    assert (found.info["a"], found.info["icc_profile"]) == ("b", b"profile")
    assert png.read_text(data[:4096]) == {"a": "b"}
    assert data.endswith(png.END)


def test_profile_and_resolution_come_back():
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = read(png.encode(noise(2, 2), text={}, icc=icc, dpi=(300, 72)))
    assert image.info["icc_profile"] == icc
    assert image.info["dpi"] == pytest.approx((300, 72), abs=0.02)


def test_a_file_is_complete_only_with_its_end():
    data = png.encode(noise(3, 3), text={"a": "b"})
    assert provenance.read(data, data[-64:]) == {"a": "b"}
    assert provenance.read(data, data[:-1]) == {}
    assert provenance.read(data, b"") == {}


def test_every_chunk_carries_the_checksum_that_the_format_asks_for():
    data = png.encode(noise(3, 3), text={"a": "b"}, icc=b"profile", dpi=(72, 72))
    kinds, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        body, check = data[at + 4 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        assert struct.pack(">I", zlib.crc32(body)) == check
        kinds.append(body[:4])
        at += 12 + length
    assert kinds[0] == b"IHDR"
    assert kinds[-1] == b"IEND"
