"""Small copies for the contact sheet."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import ALPHA, COLOUR

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import DecodedImage

_ZIP = b"PK\3\4"


def thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
    """The image, or a cutout's ZIP, as a WebP file whose longer side has at most `side` pixels.

    Raises:
        PermanentError: as `decode` does.

    """
    picture = _decoded(data, limits)
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return _small(image, side, picture.icc)


def mask_thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
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
