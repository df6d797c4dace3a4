"""What a file says of its picture before a pixel of it is decoded.

Whether a file may become a source at all, told from its header and its end.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.formats import (
    FORMATS,
    HEIF,
    format_of,
    is_cut_short,
    refusal,
    truncated,
)
from bgpipe.pipeline.images.limits import Limits, check_bytes, check_size

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits

# What Pillow and its codecs raise on damaged data; none of it says more than its message.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
)

IMAGE_FORMATS = "bgpipe:pictures"
"""Where an open HEIF file says how many pictures it holds."""

_ORIENTATION = 0x0112


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """The file with its header read, its size within the limits, its pixels not yet decoded.

    Raises:
        PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.

    """
    check_bytes(data, limits)
    if size := _webp_canvas(data):  # which Pillow allocates as it opens the file
        check_size(size, limits)
    name = format_of(data)
    image = _open_heif(data, limits) if name == HEIF else _open(data)
    check_size(image.size, limits)
    if image.format == "AVIF" and is_cut_short("AVIF", data):
        raise truncated("AVIF", f"{len(data)} bytes are there")
    return image


def orientation(image: Image.Image) -> int:
    """1 to 8 as in EXIF; 1 where the tag is missing, cannot be read, or was heeded already."""
    if image.format == HEIF:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def resolution(image: Image.Image) -> tuple[float, float] | None:
    """Dots per inch across and down, as the picture is stored."""
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None


def _open(data: bytes) -> Image.Image:
    # Pillow's own limit warns on stderr and may be another one: check_size judges.
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damage that it passes over, on stderr
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except DAMAGE as error:
        raise refusal(data) from error


def _open_heif(data: bytes, limits: Limits) -> Image.Image:
    """The primary picture of a HEIF file, turned as the file asks for."""
    try:
        import pillow_heif
    except ImportError as error:
        raise PermanentError(
            Code.UNSUPPORTED, "HEIF is read with pillow-heif: pip install 'bgpipe[heic]'"
        ) from error
    if is_cut_short(HEIF, data):
        raise truncated(HEIF, f"{len(data)} bytes are there")
    try:
        file = pillow_heif.open_heif(data)
        check_size(file.size, limits)
        image: Image.Image = file.to_pillow()
        image.format = HEIF
        image.info[IMAGE_FORMATS] = len(file)
    except DAMAGE as error:
        raise truncated(HEIF, error) from error
    return image


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height in an extended WebP header."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return None
    width, height = data[24:27], data[27:30]
    return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
