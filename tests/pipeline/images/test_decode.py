"""Decoding by content, and what is kept of a source."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.preview import render_thumbnail

from .files import LIMITS, SRGB, chunk, png_header, png_of_16_bits, saved, scene, table_profile


def code_of(data, limits=LIMITS):
    with pytest.raises(PermanentError) as caught:
        decode(data, limits)
    return caught.value.code


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
    samples = np.array([[[4660], [4661]]], np.uint16)
    assert decode(png_of_16_bits(samples, key=(4660,)), LIMITS).alpha.tolist() == [[0, 255]]


def test_16_bit_colour_keeps_its_high_bytes():
    data = png_of_16_bits(np.array([[[65535, 32768, 255]]], np.uint16))
    assert decode(data, LIMITS).rgb.tolist() == [[[255, 128, 0]]]


def test_a_transparent_colour_of_16_bits_is_compared_with_all_of_them():
    samples = np.array([[[4660, 22136, 39612], [4661, 22136, 39612]]], np.uint16)
    picture = decode(png_of_16_bits(samples, key=(4660, 22136, 39612)), LIMITS)
    assert picture.alpha.tolist() == [[0, 255]]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_16_bits_are_there_when_asked_for(channels):
    samples = np.random.default_rng(1).integers(0, 2**16, (5, 7, channels), np.uint16)
    data = png_of_16_bits(samples)
    picture = decode(data, LIMITS, keep_16_bits=True)
    colours = np.repeat(samples, 3, axis=2) if channels == 1 else samples[..., :3]
    assert np.array_equal(picture.rgb16, colours)
    assert np.array_equal(picture.rgb, colours >> 8)
    assert decode(data, LIMITS).rgb16 is None


def test_16_bits_turn_with_their_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    samples = np.arange(6, dtype=np.uint16).reshape(2, 3, 1) * 9999
    data = png_of_16_bits(samples)
    data = data[:33] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[33:]
    deep = decode(data, LIMITS, keep_16_bits=True).rgb16
    assert np.array_equal(deep[..., 0], np.rot90(samples[..., 0], -1))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_chunk_that_announces_gigabytes_costs_none():
    data = png_of_16_bits(np.full((5, 6, 3), 700, np.uint16))
    at = data.index(b"IDAT")
    damaged = data[: at - 4] + b"\xff\0\0\x10" + data[at:]
    program = f"""
from pathlib import Path
from bgpipe.pipeline.errors import PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
try:
    decode({damaged!r}, Limits(9999, 999, 9999), keep_16_bits=True)
except PermanentError:
    pass
status = Path("/proc/self/status").read_text()  # getrusage would count the parent before exec
print(status.split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout) < 500_000, done.stderr


def test_a_picture_of_8_bits_has_no_deeper_ones():
    assert decode(saved(Image.fromarray(scene()), "PNG"), LIMITS, keep_16_bits=True).rgb16 is None


@pytest.mark.parametrize(
    ("white", "kind"),
    [(1, np.float32), (255, np.float32), (65535, np.float32), (255, np.int32), (65535, np.int32)],
)
def test_float_and_32_bit_samples_are_scaled_to_their_white(white, kind):
    samples = np.array([[0, 1, 2, 3, 4]], np.float64) / 4 * white
    data = saved(Image.fromarray(samples.astype(kind)), "TIFF")
    assert decode(data, LIMITS).rgb[0, :, 1] == pytest.approx([0, 64, 128, 191, 255], abs=1)


def test_samples_that_are_no_numbers_are_black():
    data = saved(Image.fromarray(np.array([[np.nan, 1.0]], np.float32)), "TIFF")
    assert decode(data, LIMITS).rgb[0, :, 0].tolist() == [0, 255]


def test_lab_becomes_srgb():
    lab = Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8), mode="LAB")
    assert decode(saved(lab, "TIFF"), LIMITS).rgb[0, 0] == pytest.approx([255, 255, 255], abs=2)


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


def test_rgb_that_only_a_table_explains_becomes_srgb():
    pixels = np.array([[[255, 0, 0], [0, 255, 255], [128, 7, 9]]], np.uint8)
    picture = decode(saved(Image.fromarray(pixels), "PNG", icc_profile=table_profile()), LIMITS)
    assert picture.icc is None
    white, black, grey = picture.rgb[0].astype(int)
    assert white.min() > 250
    assert black.max() < 5
    assert grey.max() - grey.min() <= 2


@pytest.mark.parametrize("file_format", ["WEBP", "GIF", "PNG", "TIFF", "MPO"])
def test_the_first_of_several_frames_is_taken_and_all_are_counted(file_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
    picture = decode(data, LIMITS)
    assert picture.rgb[0, 0] == pytest.approx([255, 0, 0], abs=2)
    assert picture.frames == 3
    assert decode(saved(frames[0], "PNG"), LIMITS).frames == 1


@pytest.mark.parametrize("file_format", ["WEBP", "GIF", "PNG", "TIFF"])
def test_too_many_frames_are_too_large(file_format):
    frames = [Image.new("L", (1, 1), 255 * (i % 2)) for i in range(52)]
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert code_of(data) is Code.TOO_LARGE


def test_directories_of_a_tiff_that_lead_back_are_counted_once():
    data = bytearray(saved(Image.new("RGB", (4, 4)), "TIFF"))
    start = int.from_bytes(data[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    data[end : end + 4] = data[4:8]
    assert decode(bytes(data), LIMITS).frames == 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_upright_once_and_keeps_its_profile(orientation):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(scene(64, 96))
    pillow_heif.from_pillow(image).save(
        file, quality=-1, chroma=444, icc_profile=SRGB, exif=exif.tobytes()
    )
    picture = decode(file.getvalue(), LIMITS)
    upright = scene(64, 96) if orientation == 1 else np.rot90(scene(64, 96), -1)
    assert np.abs(picture.rgb - upright.astype(int)).mean() < 2
    assert picture.icc == SRGB
    assert code_of(file.getvalue()[:-50]) is Code.TRUNCATED
    assert code_of(file.getvalue(), Limits(100, 100, 10**6)) is Code.TOO_LARGE


def test_heic_without_its_reader_says_what_to_install():
    program = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
from bgpipe.pipeline.errors import PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
try:
    decode(bytes.fromhex("00000018667479706865696300000000") + b"mif1heic", Limits(9, 9, 99))
except PermanentError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.startswith("E_UNSUPPORTED")
    assert "bgpipe[heic]" in done.stdout


def test_nothing_is_printed_about_a_file_between_the_limit_and_its_double():
    program = """
import sys
from bgpipe.pipeline.errors import PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
try:
    decode(sys.stdin.buffer.read(), Limits(4000, 900, 10**6))
except PermanentError as error:
    print(error.code)
"""
    data = saved(Image.fromarray(scene()), "PNG")
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
    assert (done.stdout, done.stderr) == (b"E_TOO_LARGE\n", b"")


def test_no_bytes_are_empty():
    assert code_of(b"") is Code.EMPTY


@pytest.mark.parametrize("data", [b"hello, world\n", b"\0" * 500, b"RIFF....WAVEfmt "])
def test_other_content_is_no_image(data):
    assert code_of(data) is Code.NOT_IMAGE


@pytest.mark.parametrize(
    "data",
    [
        b"8BPS\0\1",
        b"%PDF-1.7",
        b"\xff\x0a\0\0",
        b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        saved(Image.new("F", (4, 4), -1.0), "TIFF"),
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


def test_the_canvas_of_a_webp_is_judged_before_it_is_allocated():
    canvas = (16_000_000).to_bytes(3, "little")
    data = b"RIFF" + (100).to_bytes(4, "little") + b"WEBPVP8X" + b"\x0a\0\0\0\x02\0\0\0"
    assert code_of(data + canvas + canvas) is Code.TOO_LARGE


def test_a_thumbnail_is_a_small_upright_webp_with_alpha():
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = np.dstack([scene(100, 400), np.full((100, 400), 9, np.uint8)])
    data = saved(Image.fromarray(rgba), "PNG", exif=exif)
    image = Image.open(io.BytesIO(render_thumbnail(data, LIMITS, 80)))
    assert (image.format, image.mode, image.size) == ("WEBP", "RGBA", (20, 80))
