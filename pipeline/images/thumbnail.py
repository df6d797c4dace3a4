"""Small copies for the contact sheet."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image

from bgpipe.pipeline.images.decode import decode

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits


def thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
    """The image as a WebP file whose longer side has at most `side` pixels.

    Raises:
        PermanentError: as `decode` does.

    """
    picture = decode(data, limits)
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "WEBP", icc_profile=picture.icc)
    return file.getvalue()
