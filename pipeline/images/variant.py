"""Other views of a picture's file: one of its channels, a smaller file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from bgpipe.pipeline.images.decode import decode

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import DecodedImage, Pixels

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
