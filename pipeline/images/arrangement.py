"""Arrange a finished cutout: region, crop, scale, position, size, background and format.

Terms and defaults are those of remove.bg's API 1.0.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bgpipe.pipeline.images.color import from_srgb, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import save

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import Pixels

Box = tuple[int, int, int, int]
"""Left, top, right and bottom."""

VISIBLE = 16
"""Smallest alpha of a pixel that belongs to the subject."""
QUALITY = 90
MARGIN_PIXELS, MARGIN_SHARE = 500, 50.0
"""Maximum margin on each side: pixels, and percent of the subject."""
MEGAPIXELS = {"preview": 0.25, "small": 0.25, "regular": 0.25, "medium": 1.5, "hd": 4.0}
"""Maximum size of the file; the other names mean the photo's own."""

_SHARE = r"\d{1,3}(\.\d{1,3})?%"
_LENGTH = r"\d{1,5}(\.\d{1,3})?(%|px)?"


def _color(text: str) -> str:
    """Return an opaque color as Pillow names it; `#` may be missing."""
    color = f"#{text}" if text[:1] != "#" and set(text.lower()) <= set("0123456789abcdef") else text
    if len(ImageColor.getrgb(color)) > 3:
        raise ValueError("not an opaque color")
    return color


class Arrangement(BaseModel):
    """Lengths are pixels, or percent of the image (roi) or of the subject (crop_margin)."""

    model_config = ConfigDict(extra="forbid")

    size: Literal["preview", "small", "regular", "medium", "hd", "4k", "full", "auto", "50MP"] = (
        "preview"
    )
    format: Literal["auto", "png", "jpg", "webp", "zip"] = "auto"
    roi: Annotated[str, Field(pattern=rf"^{_LENGTH}( {_LENGTH}){{3}}$")] = "0% 0% 100% 100%"
    """Left, top, right and bottom of the region outside of which everything is background."""
    crop: bool = False
    crop_margin: Annotated[
        str, Field(pattern=rf"^{_LENGTH}( {_LENGTH}( {_LENGTH} {_LENGTH})?)?$")
    ] = "0"
    """On all sides; above and below, left and right; or above, right, below, left."""
    scale: Annotated[str, Field(pattern=rf"^(original|{_SHARE})$")] = "original"
    position: Annotated[str, Field(pattern=rf"^(original|center|{_SHARE}( {_SHARE})?)$")] = (
        "original"
    )
    """Share of the free space that is left of, and above, the subject."""
    channels: Literal["rgba", "alpha"] = "rgba"
    bg_color: Annotated[str, AfterValidator(_color)] = ""


@dataclass(frozen=True, slots=True)
class Arranged:
    """A file, its size in pixels, and the subject's box in the original image."""

    data: bytes
    format: str
    """png, jpg, webp or zip."""
    size: tuple[int, int]
    subject: Box


def arrange(
    cutout: bytes, arrangement: Arrangement, background: bytes, limits: Limits
) -> Arranged | None:
    """Return the arranged cutout; None if no subject is in the region.

    `background` is an image file, or empty.

    Raises PermanentError if a file cannot be decoded, as `decode` says.
    """
    source = decode(cutout, limits)
    image = Image.fromarray(source.rgb)
    image.putalpha(Image.fromarray(_within(source.alpha, arrangement.roi, image.size)))
    subject = image.getchannel("A").point(lambda alpha: 255 * (alpha >= VISIBLE)).getbbox()
    if subject is None:
        return None
    if arrangement.crop:
        image = image.crop(_with_margins(subject, arrangement.crop_margin.split()))
    elif (arrangement.scale, arrangement.position) != ("original", "original"):
        image = _place(image, subject, arrangement.scale, arrangement.position)
    maximum = MEGAPIXELS.get(arrangement.size, float("inf")) * 1e6
    image = _resize(image, min(1.0, (maximum / (image.width * image.height)) ** 0.5))
    is_alpha = arrangement.channels == "alpha"
    has_background = bool(arrangement.bg_color or background) and not is_alpha
    automatic = "jpg" if has_background else "png"
    name = automatic if arrangement.format == "auto" else arrangement.format
    color = arrangement.bg_color or ("white" if name == "jpg" else "")
    behind = _background(background, color, image.size, limits)
    if behind:
        behind = Image.fromarray(from_srgb(np.asarray(behind), source.icc))
    if name == "zip":
        data = _zip(image, behind, source.icc)
    elif is_alpha:
        data = _save(image.getchannel("A"), name, None)
    else:
        if behind:
            behind.paste(image, mask=image.getchannel("A"))
        data = _save(behind or image, name, source.icc)
    return Arranged(data, name, image.size, subject)


def _pixels(length: str, whole: int) -> float:
    value = float(length.removesuffix("%").removesuffix("px"))
    return value * whole / 100 if length.endswith("%") else value


def _within(alpha: Pixels | None, roi: str, size: tuple[int, int]) -> Pixels:
    """Return the alpha, zero outside the region."""
    sides = enumerate(roi.split())
    left, top, right, bottom = (round(_pixels(side, size[at % 2])) for at, side in sides)
    inside = np.zeros(size[::-1], np.uint8)
    inside[top:bottom, left:right] = 255 if alpha is None else alpha[top:bottom, left:right]
    return inside


def _with_margins(subject: Box, margins: list[str]) -> Box:
    left, top, right, bottom = subject
    sides = (bottom - top, right - left) * 2
    above, after, below, before = (
        round(min(_pixels(margin, side), MARGIN_PIXELS, _pixels(f"{MARGIN_SHARE}%", side)))
        for margin, side in zip(margins * (4 // len(margins)), sides, strict=True)
    )
    return left - before, top - above, right + after, bottom + below


def _place(image: Image.Image, subject: Box, scale: str, position: str) -> Image.Image:
    part = image.crop(subject)
    left, top = subject[:2]
    if scale != "original":
        wholes = zip(image.size, part.size, strict=True)
        part = _resize(part, min(_pixels(scale, whole) / side for whole, side in wholes))
    if scale != "original" or position != "original":
        shares = ["50%"] if position in {"original", "center"} else position.split()
        free_x, free_y = image.width - part.width, image.height - part.height
        left, top = round(_pixels(shares[0], free_x)), round(_pixels(shares[-1], free_y))
    placed = Image.new("RGBA", image.size)
    placed.paste(part, (left, top))
    return placed


def _resize(image: Image.Image, factor: float) -> Image.Image:
    width, height = (max(1, int(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _background(
    file: bytes, color: str, size: tuple[int, int], limits: Limits
) -> Image.Image | None:
    """Return what is behind the subject, in sRGB."""
    if file:
        source = decode(file, limits)
        return ImageOps.fit(Image.fromarray(to_viewed_srgb(source.rgb, source.icc)), size)
    return Image.new("RGB", size, color) if color else None


def _zip(image: Image.Image, background: Image.Image | None, icc: bytes | None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("color.jpg", _save(image.convert("RGB"), "jpg", icc))
        archive.writestr("alpha.png", _save(image.getchannel("A"), "png", None))
        if background:
            archive.writestr("background.jpg", _save(background, "jpg", icc))
    return file.getvalue()


def _save(image: Image.Image, name: str, icc: bytes | None) -> bytes:
    kind = "JPEG" if name == "jpg" else name.upper()
    return save(image, kind, quality=QUALITY, compress_level=4, icc_profile=icc)
