"""Smaller or partial copies of an image file: thumbnails, single channels."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import ALPHA, COLOR, save

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import DecodedImage, Pixels

Channels = Literal["rgba", "rgb", "a", "grey"]
"""`a`: the alpha over black, as RGBA; `grey`: the alpha as gray."""
Encoding = Literal["png", "webp", "jpeg"]

_ZIP = b"PK\3\4"


def render_thumbnail(data: bytes, limits: Limits, side: int, *, mask: bool = False) -> bytes:
    """Return the image, or the cutout of a ZIP, as WebP; its longer side has at most `side` pixels.

    `mask`: return its alpha in gray, or the gray of a file without one.

    Raises PermanentError: as `decode` does.
    """
    source = _decode(data, limits)
    if mask:
        gray = source.rgb[..., 0].copy() if source.alpha is None else source.alpha
        image = Image.fromarray(gray)
    else:
        image = Image.fromarray(source.rgb)
        if source.alpha is not None:
            image.putalpha(Image.fromarray(source.alpha))
    image.thumbnail((side, side))
    return save(image, "WEBP", icc_profile=None if mask else source.icc)


def render_channels(
    data: bytes, limits: Limits, channels: Channels, encoding: Encoding, quality: int
) -> bytes:
    """Return these channels of the image as a file; `quality` is 1 to 100.

    Raises PermanentError: as `decode` does.
    """
    image = Image.fromarray(_select_channels(decode(data, limits), channels))
    if encoding == "jpeg":
        image = image.convert("RGB")
    if encoding == "png":
        return save(image, "PNG", compress_level=4)
    return save(image, encoding.upper(), quality=quality)


def put_alpha(data: bytes, mask: bytes, limits: Limits) -> bytes:
    """Return the image `data` as PNG with the alpha of the image `mask`, opaque if that has none.

    Raises PermanentError: as `decode` does, or they differ in size.
    """
    source, other = decode(data, limits), decode(mask, limits)
    if source.rgb.shape != other.rgb.shape:
        raise PermanentError(Code.UNSUPPORTED, "image and mask differ in size")
    image = Image.fromarray(np.dstack([source.rgb, _select_channels(other, "grey")]))
    return save(image, "PNG", compress_level=4, icc_profile=source.icc)


def _decode(data: bytes, limits: Limits) -> DecodedImage:
    """Decode an image, or the two of a ZIP whose headers announce few enough bytes."""
    if not data.startswith(_ZIP):
        return decode(data, limits)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(member.file_size > limits.max_bytes for member in archive.infolist()):
                raise PermanentError(Code.TOO_LARGE, "a member of the ZIP is larger than allowed")
            color, alpha = (decode(archive.read(name), limits) for name in (COLOR, ALPHA))
    except (zipfile.BadZipFile, KeyError) as error:
        raise PermanentError(Code.TRUNCATED, f"not the ZIP of a cutout: {error}") from error
    if color.rgb.shape != alpha.rgb.shape:
        raise PermanentError(Code.TRUNCATED, "color and alpha of the ZIP differ in size")
    return replace(color, alpha=alpha.rgb[..., 0].copy())


def _select_channels(image: DecodedImage, channels: Channels) -> Pixels:
    alpha = np.full(image.rgb.shape[:2], 255, np.uint8) if image.alpha is None else image.alpha
    if channels == "grey":
        return alpha
    if channels == "rgb":
        return image.rgb
    color = np.zeros_like(image.rgb) if channels == "a" else image.rgb
    return np.dstack([color, alpha])
