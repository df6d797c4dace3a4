"""Decoding by content, and what is kept of a source."""

from __future__ import annotations

import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from bgpipe.pipeline.errors import Code, ItemError, PermanentError
from bgpipe.pipeline.images import Limits, decode, encode_png, model_input, thumbnail
from bgpipe.pipeline.types import Cutout, Picture

LIMITS = Limits(max_pixels=10_000_000, max_side=8_000, max_bytes=5_000_000)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def scene(height=60, width=90):
    """Smooth colours with an edge, so that a JPEG of it has something to say."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    rgb[: height // 2, : width // 3] = (200, 30, 90)
    return rgb


def saved(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def code_of(data, limits=LIMITS):
    with pytest.raises(PermanentError) as caught:
        decode(data, limits)
    return caught.value.code


def png_header(width, height):
    body = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "BMP"])
def test_lossless_formats_give_the_source_pixels(file_format):
    data = saved(Image.fromarray(scene()), file_format, lossless=True)
    picture = decode(data, LIMITS)
    assert np.array_equal(picture.rgb, scene())
    assert picture.alpha is None


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [30, 92])
def test_jpeg_pixels_are_those_of_pillow(progressive, subsampling, quality):
    image = Image.fromarray(scene(121, 77))
    data = saved(image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    assert np.array_equal(decode(data, LIMITS).rgb, np.asarray(Image.open(io.BytesIO(data))))


def test_rgb_jpeg_pixels_are_those_of_pillow():
    data = saved(Image.fromarray(scene()), "JPEG", keep_rgb=True)
    assert np.array_equal(decode(data, LIMITS).rgb, np.asarray(Image.open(io.BytesIO(data))))


def test_junk_between_jpeg_markers_is_passed_over():
    data = saved(Image.fromarray(scene()), "JPEG")
    with_junk = data.replace(b"\xff\xdb", b"\0\0\0\xff\xdb", 1)
    assert np.array_equal(decode(with_junk, LIMITS).rgb, decode(data, LIMITS).rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_once(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(scene()), file_format, exif=exif, dpi=(100, 200))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = decode(data, LIMITS)
    assert np.array_equal(picture.rgb, np.asarray(upright))
    if file_format != "WEBP":  # which has no resolution of its own
        turned = orientation >= 5
        assert picture.dpi == pytest.approx((200, 100) if turned else (100, 200), abs=0.02)


def test_alpha_turns_with_its_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.arange(60 * 90, dtype=np.uint8).reshape(60, 90)
    image = Image.fromarray(np.dstack([scene(), alpha]))
    picture = decode(saved(image, "PNG", exif=exif), LIMITS)
    assert np.array_equal(picture.alpha, np.rot90(alpha, -1))


def test_an_orientation_that_is_none_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    data = saved(Image.fromarray(scene()), "PNG", exif=exif)
    assert np.array_equal(decode(data, LIMITS).rgb, scene())


def test_the_sources_own_alpha_is_kept_apart():
    alpha = np.linspace(0, 255, 60 * 90).astype(np.uint8).reshape(60, 90)
    picture = decode(saved(Image.fromarray(np.dstack([scene(), alpha])), "PNG"), LIMITS)
    assert np.array_equal(picture.rgb, scene())
    assert np.array_equal(picture.alpha, alpha)


def test_an_alpha_that_is_opaque_throughout_counts_as_none():
    image = Image.fromarray(scene()).convert("RGBA")
    assert decode(saved(image, "PNG"), LIMITS).alpha is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_is_alpha(mode):
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert(mode)
    key = image.getpixel((0, 0))
    picture = decode(saved(image, "PNG", transparency=key), LIMITS)
    assert picture.alpha.tolist() == [[0, 255], [255, 0]]
    assert picture.rgb[0, 1].tolist() == [255, 255, 255]


def test_a_palette_with_many_opacities_is_alpha():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    picture = decode(saved(image, "PNG", transparency=bytes([0, 128, 255])), LIMITS)
    assert picture.rgb.tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert picture.alpha.tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_becomes_equal_channels(mode):
    image = Image.fromarray(scene()).convert("L").convert(mode)
    rgb = decode(saved(image, "PNG"), LIMITS).rgb
    assert np.array_equal(rgb, np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(file_format):
    samples = np.array([[0, 255, 256, 4660, 32768, 65535]], np.uint16)
    rgb = decode(saved(Image.fromarray(samples), file_format), LIMITS).rgb
    assert rgb[0, :, 0].tolist() == [0, 0, 1, 18, 128, 255]


def test_16_bit_grey_with_a_transparent_sample_has_alpha():
    samples = np.array([[4660, 4661]], np.uint16)
    data = saved(Image.fromarray(samples), "PNG")
    key = b"tRNS" + (4660).to_bytes(2)
    chunk = (2).to_bytes(4) + key + zlib.crc32(key).to_bytes(4)
    at = data.index(b"IDAT") - 4
    assert decode(data[:at] + chunk + data[at:], LIMITS).alpha.tolist() == [[0, 255]]


def test_16_bit_colour_keeps_its_high_bytes():
    samples = np.array([[[65535, 32768, 255]]], ">u2")
    rows = zlib.compress(b"\0" + samples.tobytes())
    header = bytearray(png_header(1, 1))
    header[24] = 16
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4)
    check = zlib.crc32(b"IDAT" + rows).to_bytes(4)
    data = bytes(header) + len(rows).to_bytes(4) + b"IDAT" + rows + check
    assert decode(data + b"\0\0\0\0IEND\xaeB`\x82", LIMITS).rgb.tolist() == [[[255, 128, 0]]]


def test_cmyk_jpeg_is_not_inverted():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue = decode(saved(image, "JPEG", quality=100), LIMITS).rgb[8, 8]
    assert (red > 240, green < 15, blue < 15) == (True, True, True)


def test_cmyk_with_a_profile_that_cannot_be_read_is_still_converted():
    icc = bytearray(SRGB)
    icc[16:20] = b"CMYK"
    data = saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", icc_profile=bytes(icc))
    picture = decode(data, LIMITS)
    assert picture.rgb[4, 4, 0] > 200
    assert picture.icc is None


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_an_rgb_profile_is_kept_byte_for_byte(file_format):
    data = saved(Image.fromarray(scene()), file_format, icc_profile=SRGB)
    assert decode(data, LIMITS).icc == SRGB


def test_a_profile_of_another_colour_space_is_not_kept():
    grey = bytearray(SRGB)
    grey[16:20] = b"GRAY"
    picture = decode(saved(Image.fromarray(scene()), "PNG", icc_profile=bytes(grey)), LIMITS)
    assert picture.icc is None
    assert np.array_equal(picture.rgb, scene())


@pytest.mark.parametrize("icc", [b"x", b"x" * 200])
def test_a_profile_that_is_none_is_not_kept(icc):
    data = saved(Image.fromarray(scene()), "PNG", icc_profile=icc)
    assert decode(data, LIMITS).icc is None


def test_only_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data, LIMITS).rgb[0, 0].tolist() == [255, 0, 0]


def test_no_bytes_are_empty():
    assert code_of(b"") is Code.EMPTY


@pytest.mark.parametrize("data", [b"hello, world\n", b"\0" * 500, b"RIFF....WAVEfmt "])
def test_other_content_is_no_image(data):
    assert code_of(data) is Code.NOT_IMAGE


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"8BPS\0\1",
        b"%PDF-1.7",
        b"\xff\x0a\0\0",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        saved(Image.new("F", (4, 4)), "TIFF"),
        saved(Image.new("RGB", (4, 4)), "ICO"),
    ],
)
def test_formats_and_samples_that_are_not_read_say_so(data):
    assert code_of(data) is Code.UNSUPPORTED


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_a_file_that_was_cut_short_is_truncated(file_format, options, share):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    data = saved(Image.fromarray(noise), file_format, **options)
    assert code_of(data[: int(len(data) * share)]) is Code.TRUNCATED


def test_a_damaged_stream_is_truncated():
    data = bytearray(saved(Image.fromarray(scene()), "PNG"))
    at = data.index(b"IDAT") + 4
    data[at : at + 8] = b"\xff" * 8
    assert code_of(bytes(data)) is Code.TRUNCATED


def test_a_png_without_pixels_is_truncated():
    assert code_of(png_header(4, 4) + b"\0\0\0\0IEND\xaeB`\x82") is Code.TRUNCATED


def test_a_damaged_header_is_no_image():
    data = bytearray(saved(Image.fromarray(scene()), "PNG"))
    data[18] ^= 1
    assert code_of(bytes(data)) is Code.NOT_IMAGE


@pytest.mark.parametrize(
    ("width", "height"),
    [(3_000, 5_000), (60_000, 60_000), (8_001, 1), (1, 8_001)],
)
def test_size_limits_are_judged_from_the_header(width, height):
    """Nothing but the header is there, so decoding would say that it is cut short."""
    assert code_of(png_header(width, height) + b"\0\0\0\x05IDAT") is Code.TOO_LARGE


def test_too_many_bytes_are_too_large():
    data = saved(Image.fromarray(scene()), "BMP")
    assert code_of(data, Limits(10**6, 10**3, max_bytes=len(data) - 1)) is Code.TOO_LARGE


def test_an_image_at_its_limits_is_decoded():
    data = saved(Image.fromarray(scene(60, 90)), "PNG")
    assert decode(data, Limits(60 * 90, 90, len(data))).rgb.shape == (60, 90, 3)


def test_model_input_is_pillows_antialiased_bilinear():
    rgb = scene(301, 517)
    expected = Image.fromarray(rgb).resize((64, 96), Image.Resampling.BILINEAR)
    found = model_input(rgb, (96, 64))
    assert np.array_equal(found, np.asarray(expected))
    assert found.flags.writeable


def test_the_written_png_has_the_sources_profile_and_resolution():
    rgba = np.dstack([scene(), np.full((60, 90), 7, np.uint8)])
    picture = Picture(scene(), icc=SRGB, dpi=(300, 150))
    image = Image.open(io.BytesIO(encode_png(Cutout(rgba), picture, {"bgpipe:source": "1-2"})))
    assert np.array_equal(np.asarray(image), rgba)
    assert image.info["icc_profile"] == SRGB
    assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    assert image.info["bgpipe:source"] == "1-2"


def test_a_thumbnail_is_a_small_upright_webp_with_alpha():
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = np.dstack([scene(100, 400), np.full((100, 400), 9, np.uint8)])
    data = saved(Image.fromarray(rgba), "PNG", exif=exif)
    image = Image.open(io.BytesIO(thumbnail(data, LIMITS, 80)))
    assert (image.format, image.mode, image.size) == ("WEBP", "RGBA", (20, 80))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on what it passes over
def test_hostile_files_decode_or_are_refused_as_expected(shared):
    limits = Limits(200_000_000, 65_000, 2**29)
    folder = shared / "images" / "torture"
    departures = []
    for entry in json.loads((folder / "index.json").read_text()):
        data = (folder / entry["file"]).read_bytes()
        try:
            picture = decode(data, limits)
        except ItemError as error:
            if entry["expect"] == "ok":
                departures.append((entry["file"], str(error)))
        else:
            if entry["expect"] == "reject" or not _agrees_with_pillow(picture, data):
                departures.append((entry["file"], "decoded"))
    assert departures == []


def _agrees_with_pillow(picture, data):
    """An independent decode; colours that go through a profile are left to their own tests."""
    image = Image.open(io.BytesIO(data))
    upright = ImageOps.exif_transpose(image)
    if picture.rgb.shape[1::-1] != upright.size:
        return False
    if upright.mode.startswith("I;16") or b"CMYK" in (image.info.get("icc_profile") or b""):
        return True
    return bool(
        np.abs(picture.rgb - np.asarray(upright.convert("RGBA"))[..., :3].astype(int)).max() <= 1
    )
