"""Region, crop, scale, position, size, background and format of a finished cutout."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageCms

from bgpipe.pipeline.images.arrangement import Arranged, Arrangement, arrange
from bgpipe.pipeline.images.limits import Limits

LIMITS = Limits(10**7, 10_000, 10**8)
PLAIN = {"size": "full"}
SUBJECT = (40, 20, 80, 80)


def cutout(**options: object) -> bytes:
    """200 x 100 pixels with an orange subject, whose corner has half of its alpha."""
    image = Image.new("RGBA", (200, 100))
    image.paste((255, 128, 0, 255), SUBJECT)
    image.paste((255, 128, 0, 128), (40, 20, 50, 30))
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def arranged(background: bytes = b"", **changes: object) -> tuple[Arranged, Image.Image]:
    result = arrange(cutout(), Arrangement(**PLAIN | changes), background, LIMITS)
    assert result is not None
    image = Image.open(io.BytesIO(result.data))
    assert image.size == result.size
    return result, image


def test_a_plain_arrangement_changes_no_pixel() -> None:
    result, image = arranged()
    with Image.open(io.BytesIO(cutout())) as source:
        assert np.array_equal(np.asarray(image), np.asarray(source))
    assert result.subject == SUBJECT


def test_what_is_outside_the_region_is_background() -> None:
    result, image = arranged(roi="0 0 30% 50px")
    assert result.subject == (40, 20, 60, 50)
    assert image.getbbox() == (40, 20, 60, 50)
    assert arrange(cutout(), Arrangement(roi="50% 0 100% 100%"), b"", LIMITS) is None


@pytest.mark.parametrize(
    ("margins", "size"),
    [
        ("0", (40, 60)),
        ("10%", (48, 72)),
        ("5px 10px", (60, 70)),
        ("1px 2 3 4", (46, 64)),
        ("90% 0 0 0", (40, 90)),
    ],
)
def test_the_crop_has_its_margins_and_half_of_the_subject_at_most(
    margins: str, size: tuple[int, int]
) -> None:
    result, image = arranged(crop=True, crop_margin=margins)
    assert result.size == size
    assert result.subject == SUBJECT
    assert image.getchannel("A").point(lambda alpha: 255 * (alpha > 200)).getbbox() is not None


@pytest.mark.parametrize(
    ("scale", "position", "box"),
    [
        ("original", "center", (80, 20, 120, 80)),
        ("original", "0% 100%", (0, 40, 40, 100)),
        ("100%", "original", (66, 0, 133, 100)),
        ("30%", "100% 0%", (180, 0, 200, 30)),
        ("original", "original", SUBJECT),
    ],
)
def test_the_subject_is_scaled_and_placed_in_the_image(
    scale: str, position: str, box: tuple[int, ...]
) -> None:
    _, image = arranged(scale=scale, position=position)
    assert image.size == (200, 100)
    visible = image.getchannel("A").point(lambda alpha: 255 * (alpha >= 64)).getbbox()
    assert np.abs(np.subtract(visible, box)).max() <= 1


def test_the_size_limits_the_pixels_and_keeps_colors_at_the_edge() -> None:
    large = io.BytesIO()
    with Image.open(io.BytesIO(cutout())) as source:
        source.resize((2000, 1000), Image.Resampling.NEAREST).save(large, "PNG")
    result = arrange(large.getvalue(), Arrangement(), b"", LIMITS)
    assert result is not None
    assert result.size == (707, 353)
    image = Image.open(io.BytesIO(result.data))
    pixels = np.asarray(image)
    assert pixels[pixels[..., 3] > 50][:, 0].min() > 250  # not mixed with what is transparent


def test_the_background_is_a_color_or_an_image_that_covers_everything() -> None:
    _, image = arranged(bg_color="00f")
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert np.abs(np.subtract(image.getpixel((5, 5)), (0, 0, 255))).max() < 8
    _, white = arranged(format="jpg")
    assert min(white.getpixel((5, 5))) > 247
    file = io.BytesIO()
    backdrop = Image.new("RGB", (30, 90), "red")
    backdrop.paste("lime", (0, 30, 30, 60))
    backdrop.save(file, "PNG")
    _, covered = arranged(file.getvalue(), format="png")
    assert covered.getpixel((199, 50)) == (0, 255, 0)
    assert covered.getpixel((70, 50)) == (255, 128, 0)
    half = covered.getpixel((45, 25))
    assert np.abs(np.subtract(half, (128, 191, 0))).max() <= 2


def test_formats() -> None:
    _, mask = arranged(channels="alpha")
    assert (mask.format, mask.mode, mask.getpixel((70, 50)), mask.getpixel((45, 25))) == (
        ("PNG", "L", 255, 128)
    )
    assert arranged(format="webp")[1].format == "WEBP"
    result = arrange(cutout(), Arrangement(format="zip", bg_color="white"), b"", LIMITS)
    assert result is not None
    with zipfile.ZipFile(io.BytesIO(result.data)) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png", "background.jpg"]


def test_the_color_profile_is_kept() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result = arrange(
        cutout(icc_profile=profile), Arrangement(bg_color="white", format="png"), b"", LIMITS
    )
    assert result is not None
    assert Image.open(io.BytesIO(result.data)).info["icc_profile"] == profile
