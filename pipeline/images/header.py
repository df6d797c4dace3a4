"""An image file opened, its header read and judged, its frames counted, before a pixel is decoded."""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.formats import (
    FORMATS,
    HEIF,
    detect_format,
    find_directories,
    header_error,
    is_cut_short,
    truncation_error,
)
from bgpipe.pipeline.images.limits import Limits, check_bytes, check_size

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
_ORIENTATION = 0x0112
_MAX_BLOCKS = 1_000_000
"""Data blocks of a GIF that are walked through; frames behind them are not counted."""
_GIF_HEADER = 13
_EXTENSION, _IMAGE = 0x21, 0x2C


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """Open the file: its header is read and its size within the limits, no pixel is decoded.

    Raises PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.
    """
    check_bytes(data, limits)
    if size := _read_webp_canvas(data):  # which Pillow allocates as it opens the file
        check_size(size, limits)
    image = _open_heif(data, limits) if detect_format(data) == HEIF else _open(data)
    check_size(image.size, limits)
    if image.format == "AVIF" and is_cut_short("AVIF", data):
        raise truncation_error("AVIF", f"{len(data)} bytes are there")
    return image


def read_orientation(image: Image.Image) -> int:
    """Return EXIF's 1 to 8; 1 if the tag is missing, unreadable or already applied."""
    if image.format == HEIF:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
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
    if is_cut_short(HEIF, data):
        raise truncation_error(HEIF, f"{len(data)} bytes are there")
    try:
        file = pillow_heif.open_heif(data)
        check_size(file.size, limits)
        image: Image.Image = file.to_pillow()
        image.format = HEIF
        image.info[_PICTURES] = len(file)
    except DAMAGE as error:
        raise truncation_error(HEIF, error) from error
    return image


def _read_webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return width and height from an extended WebP header."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X" or len(data) < 30:
        return None
    width, height = data[24:27], data[27:30]
    return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1


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
