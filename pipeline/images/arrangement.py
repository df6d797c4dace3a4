"""Arrange a finished cutout: region, crop, scale, position, size, background and format.

Terms and defaults are those of remove.bg's API 1.0.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps

from bgpipe.pipeline.images.color import from_srgb, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import Pixels

ArrangedFormat = Literal["png", "jpg", "webp", "zip"]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom."""

VISIBLE = 16
"""Smallest alpha of a pixel that belongs to the subject."""
QUALITY = 90
MARGIN_PIXELS, MARGIN_SHARE = 500, 0.5
"""Maximum margin on each side: both apply."""


@dataclass(frozen=True, slots=True)
class Length:
    """Pixels, or percent of a length that is known later."""

    value: float
    is_percent: bool

    @classmethod
    def parse(cls, text: str) -> Length:
        """Read `12%`, `12px` or `12`; ValueError for anything else."""
        return cls(float(text.removesuffix("%").removesuffix("px")), text.endswith("%"))

    def pixels(self, whole: int) -> int:
        return round(self.value * whole / 100 if self.is_percent else self.value)


@dataclass(frozen=True, slots=True)
class Arrangement:
    roi: tuple[Length, ...]
    """Left, top, right and bottom of the region outside of which everything is background."""
    crop: bool
    margins: tuple[Length, ...]
    """Top, right, bottom and left of the cropped subject."""
    scale: float | None
    """Maximum share of the subject in the image's sides; None: as it is."""
    position: tuple[float, float] | None
    """Share of the free space left of and above the subject; None: where it is."""
    max_pixels: float
    color: str
    """Pillow's name of a color, or empty."""
    backdrop: bytes
    """An image file, or empty."""
    alpha_only: bool
    format: ArrangedFormat


@dataclass(frozen=True, slots=True)
class Arranged:
    """A file, its size in pixels, and the subject's box in the original image."""

    data: bytes
    size: tuple[int, int]
    subject: Box


def arrange(cutout: bytes, arrangement: Arrangement, limits: Limits) -> Arranged | None:
    """Return the arranged cutout; None if no subject is in the region.

    Raises:
        PermanentError: a file cannot be decoded, as `decode` says.

    """
    source = decode(cutout, limits)
    image = Image.fromarray(source.rgb)
    image.putalpha(Image.fromarray(_within(source.alpha, arrangement.roi, image.size)))
    subject = image.getchannel("A").point(lambda alpha: 255 * (alpha >= VISIBLE)).getbbox()
    if subject is None:
        return None
    if arrangement.crop:
        image = image.crop(_with_margins(subject, arrangement.margins))
    elif arrangement.scale or arrangement.position:
        image = _place(image, subject, arrangement)
    share = (arrangement.max_pixels / (image.width * image.height)) ** 0.5
    if share < 1:
        width, height = (max(1, int(side * share)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    backdrop = _backdrop(arrangement, image.size, source.icc, limits)
    return Arranged(_encode(image, backdrop, arrangement, source.icc), image.size, subject)


def _within(alpha: Pixels | None, roi: tuple[Length, ...], size: tuple[int, int]) -> Pixels:
    """Return the alpha, zero outside the region."""
    sides = [length.pixels(size[at % 2]) for at, length in enumerate(roi)]
    left, top, right, bottom = (max(side, 0) for side in sides)
    inside = np.zeros(size[::-1], np.uint8)
    inside[top:bottom, left:right] = 255 if alpha is None else alpha[top:bottom, left:right]
    return inside


def _with_margins(subject: Box, margins: tuple[Length, ...]) -> Box:
    left, top, right, bottom = subject
    width, height = right - left, bottom - top
    above, after, below, before = (
        min(length.pixels(side), MARGIN_PIXELS, int(side * MARGIN_SHARE))
        for length, side in zip(margins, (height, width, height, width), strict=True)
    )
    return left - before, top - above, right + after, bottom + below


def _place(image: Image.Image, subject: Box, arrangement: Arrangement) -> Image.Image:
    part = image.crop(subject)
    if arrangement.scale:
        sides = zip(image.size, part.size, strict=True)
        factor = min(arrangement.scale * whole / side for whole, side in sides)
        width, height = (max(1, round(side * factor)) for side in part.size)
        part = part.resize((width, height), Image.Resampling.LANCZOS)
    shares = arrangement.position or (0.5, 0.5)
    free = zip(image.size, part.size, shares, strict=True)
    left, top = (round((whole - side) * share) for whole, side, share in free)
    placed = Image.new("RGBA", image.size)
    placed.paste(part, (left, top))
    return placed


def _backdrop(
    arrangement: Arrangement, size: tuple[int, int], icc: bytes | None, limits: Limits
) -> Image.Image | None:
    """Return what is behind the subject, in the colors of `icc`; JPEG has no transparency."""
    if arrangement.backdrop:
        source = decode(arrangement.backdrop, limits)
        image = ImageOps.fit(Image.fromarray(to_viewed_srgb(source.rgb, source.icc)), size)
    elif color := arrangement.color or ("white" if arrangement.format == "jpg" else ""):
        image = Image.new("RGB", size, color)
    else:
        return None
    return Image.fromarray(from_srgb(np.asarray(image), icc))


def _encode(
    image: Image.Image,
    backdrop: Image.Image | None,
    arrangement: Arrangement,
    icc: bytes | None,
) -> bytes:
    alpha = image.getchannel("A")
    if arrangement.format == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("color.jpg", _save(image.convert("RGB"), "JPEG", icc))
            archive.writestr("alpha.png", _save(alpha, "PNG", None))
            if backdrop:
                archive.writestr("background.jpg", _save(backdrop, "JPEG", icc))
        return file.getvalue()
    if arrangement.alpha_only:
        return _save(alpha, arrangement.format, None)
    if backdrop:
        backdrop.paste(image, mask=alpha)
        image = backdrop
    return _save(image, arrangement.format, icc)


def _save(image: Image.Image, file_format: str, icc: bytes | None) -> bytes:
    file = io.BytesIO()
    name = {"jpg": "JPEG"}.get(file_format, file_format.upper())
    image.save(file, name, quality=QUALITY, compress_level=4, icc_profile=icc)
    return file.getvalue()
