"""An image file opened, its header read and judged, its frames counted, before a pixel is decoded."""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from itertools import islice

from PIL import ExifTags, Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.formats import (
    FORMATS,
    HEIF,
    check_complete,
    detect_format,
    find_directories,
    header_error,
    truncation_error,
)
from bgpipe.pipeline.images.limits import Limits

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
"""Raised by Pillow and its codecs on damaged data."""

_PICTURES = "bgpipe:pictures"
"""Key of the number of pictures in the `info` of an open HEIF file."""
_MAX_BLOCKS = 1_000_000
"""Data blocks of a GIF that are walked through; frames behind them are not counted."""
_GIF_HEADER = 13
_EXTENSION, _IMAGE = 0x21, 0x2C


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """Open the file: its header is read and its size within the limits, no pixel is decoded.

    Raises PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.
    """
    limits.check_bytes(data)
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X" and len(data) >= 30:
        # Pillow allocates the canvas of an extended WebP as it opens the file.
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        limits.check_size(width, height)
    image = _open_heif(data, limits) if detect_format(data) == HEIF else _open(data)
    limits.check_size(*image.size)
    if image.format == "AVIF":
        check_complete("AVIF", data)
    return image


def read_orientation(image: Image.Image) -> int:
    """Return EXIF's 1 to 8; 1 if the tag is missing, unreadable or already applied."""
    if image.format == HEIF:
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def read_resolution(image: Image.Image) -> tuple[float, float] | None:
    """Return the dots per inch across and down, as the image is stored."""
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 0 < x < math.inf and 0 < y < math.inf else None


def count_frames(image: Image.Image, data: bytes, limits: Limits) -> int:
    """Count the frames, pages or pictures of the opened file `data`, without decoding one.

    Pillow counts the frames of a GIF and the pages of a TIFF in time that a hostile file can stretch
    to hours; here counting ends at the limit.

    Raises PermanentError: TOO_LARGE, there are more than the limits allow.
    """
    count: int
    if image.format in ("GIF", "TIFF"):
        starts = _find_gif_frames(data) if image.format == "GIF" else find_directories(data)
        count = sum(1 for _ in islice(starts, limits.max_frames + 1))
    else:
        count = image.info.get(_PICTURES, getattr(image, "n_frames", 1))
    if count > limits.max_frames:
        detail = f"more frames than images may have: {limits.max_frames}"
        raise PermanentError(Code.TOO_LARGE, detail)
    return max(count, 1)


def _open(data: bytes) -> Image.Image:
    # Pillow's own limit differs from ours and warns on stderr: check_size decides.
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damage that it tolerates, on stderr
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except DAMAGE as error:
        raise header_error(data) from error


def _open_heif(data: bytes, limits: Limits) -> Image.Image:
    """Open the primary picture of a HEIF file; libheif turns it upright."""
    try:
        import pillow_heif
    except ImportError as error:
        detail = "HEIF needs pillow-heif: pip install 'bgpipe[heic]'"
        raise PermanentError(Code.UNSUPPORTED, detail) from error
    check_complete(HEIF, data)
    try:
        file = pillow_heif.open_heif(data)
        limits.check_size(*file.size)
        image: Image.Image = file.to_pillow()
        image.format = HEIF
        image.info[_PICTURES] = len(file)
    except DAMAGE as error:
        raise truncation_error(HEIF, error) from error
    return image


def _find_gif_frames(data: bytes) -> Iterator[int]:
    """Yield the offset of each frame (GIF89a, section 20)."""
    start = _GIF_HEADER + _color_table_bytes(data, 10)
    blocks = 0
    while start + 10 < len(data) and data[start] in (_EXTENSION, _IMAGE) and blocks < _MAX_BLOCKS:
        if data[start] == _IMAGE:
            yield start
            start += 11 + _color_table_bytes(data, start + 9)  # descriptor, colors, code size
        else:
            start += 2
        while start < len(data) and data[start] and blocks < _MAX_BLOCKS:
            start += 1 + data[start]
            blocks += 1
        start += 1


def _color_table_bytes(data: bytes, flags: int) -> int:
    """Return the length of the color table that the flags at this offset announce."""
    packed = data[flags] if flags < len(data) else 0
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0
