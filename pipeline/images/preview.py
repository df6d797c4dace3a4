"""Small copies for the contact sheet.

Other views of a picture's file: one of its channels, a smaller file.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import ALPHA, COLOUR

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import DecodedImage, Pixels

_ZIP = b"PK\3\4"


def render_thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
    """The image, or a cutout's ZIP, as a WebP file whose longer side has at most `side` pixels.

    Raises:
        PermanentError: as `decode` does.

    """
    picture = _decoded(data, limits)
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return _small(image, side, picture.icc)


def render_mask_thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
    """The alpha in grey, as `thumbnail` makes it; of a file without one its own grey.

    Raises:
        PermanentError: as `decode` does.

    """
    picture = _decoded(data, limits)
    grey = picture.rgb[..., 0].copy() if picture.alpha is None else picture.alpha
    return _small(Image.fromarray(grey), side, None)


def _decoded(data: bytes, limits: Limits) -> DecodedImage:
    return _unpacked(data, limits) if data.startswith(_ZIP) else decode(data, limits)


def _small(image: Image.Image, side: int, icc: bytes | None) -> bytes:
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "WEBP", icc_profile=icc)
    return file.getvalue()


def _unpacked(data: bytes, limits: Limits) -> DecodedImage:
    """The colour under the alpha; a member is read only if its header promises to be small enough."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(member.file_size > limits.max_bytes for member in archive.infolist()):
                raise PermanentError(Code.TOO_LARGE, "a member of the ZIP is larger than allowed")
            colour, alpha = (decode(archive.read(name), limits) for name in (COLOUR, ALPHA))
    except (zipfile.BadZipFile, KeyError) as error:
        raise PermanentError(Code.TRUNCATED, f"no ZIP of a cutout: {error}") from error
    if colour.rgb.shape != alpha.rgb.shape:
        raise PermanentError(Code.TRUNCATED, "colour and alpha of the ZIP differ in size")
    return replace(colour, alpha=alpha.rgb[..., 0].copy())


Channels = Literal["rgba", "rgb", "a", "grey"]
"""`a`: the alpha over black, as RGBA; `grey`: the alpha as grey."""
Encoding = Literal["png", "webp", "jpeg"]


def render_channels(
    data: bytes, limits: Limits, channels: Channels, kind: Encoding, quality: int
) -> bytes:
    """The picture with these channels, as a file of this kind; `quality` is 1 to 100.

    Raises:
        PermanentError: as of `decode`.

    """
    image = Image.fromarray(_pixels(decode(data, limits), channels))
    file = io.BytesIO()
    if kind == "jpeg":
        image.convert("RGB").save(file, "JPEG", quality=quality)
    elif kind == "webp":
        image.save(file, "WEBP", quality=quality)
    else:
        image.save(file, "PNG", compress_level=4)
    return file.getvalue()


def _pixels(picture: DecodedImage, channels: Channels) -> Pixels:
    height, width, _ = picture.rgb.shape
    alpha = np.full((height, width), 255, np.uint8) if picture.alpha is None else picture.alpha
    if channels == "grey":
        return alpha
    if channels == "rgb":
        return picture.rgb
    colour = np.zeros_like(picture.rgb) if channels == "a" else picture.rgb
    return np.dstack([colour, alpha])
