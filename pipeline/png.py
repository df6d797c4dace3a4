"""RGBA pixels as a PNG, many times faster than zlib makes one, and the text that a PNG carries.

Every row gets the Sub filter, one subtraction in numpy, and ISA-L deflates at its fastest level.
On cutouts that is within a few per cent of the size of a file whose filters were chosen row by row.
Format: Portable Network Graphics, third edition (W3C 2025), chapters 5, 9 and 11.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
from isal import isal_zlib

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bgpipe.pipeline.types import Pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST_SIDE = 2**31 - 1

_END = b"\0\0\0\0IEND\xaeB`\x82"
_SUB = 1
_STRIP_BYTES = 1 << 20  # filtered and deflated while it is in the cache
_INCH = 0.0254


def encode(
    rgba: Pixels,
    *,
    text: Mapping[str, str],
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """The pixels [H, W, 4] as an 8-bit RGBA PNG, its text right behind the header.

    Raises:
        ValueError: a keyword or text cannot be written, or the pixels have another shape.

    """
    return b"".join(_parts(rgba, text, icc, dpi))


def read_text(start: bytes) -> dict[str, str]:
    """The text chunks in the first bytes of a file, as far as they are whole; {} if it is no PNG."""
    if not start.startswith(SIGNATURE):
        return {}
    found = {}
    for kind, body in _chunks(start):
        if kind == b"tEXt":
            keyword, _, value = body.partition(b"\0")
            found[keyword.decode("latin-1")] = value.decode("latin-1")
        elif kind == b"iTXt":
            keyword, _, value = body.partition(b"\0\0\0\0\0")
            found[keyword.decode("latin-1")] = value.decode("utf-8", "replace")
    return found


def is_complete(end: bytes) -> bool:
    """Whether a file with these last bytes was written to its end."""
    return end.endswith(_END)


def _parts(
    rgba: Pixels, text: Mapping[str, str], icc: bytes | None, dpi: tuple[float, float] | None
) -> Iterator[bytes]:
    yield SIGNATURE
    yield _chunk(b"IHDR", _header(rgba))
    for keyword, value in text.items():
        yield _text_chunk(keyword, value)
    if icc:
        yield _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi:
        yield _chunk(b"pHYs", struct.pack(">IIB", *map(_per_metre, dpi), 1))
    for data in _deflated(rgba):
        yield _chunk(b"IDAT", data)
    yield _END


def _header(rgba: Pixels) -> bytes:
    height, width, channels = rgba.shape
    if channels != 4 or not 0 < height <= LONGEST_SIDE or not 0 < width <= LONGEST_SIDE:
        raise ValueError(f"not the shape of an RGBA image: {rgba.shape}")
    return struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)


def _text_chunk(keyword: str, value: str) -> bytes:
    """`tEXt` where Latin-1 can say it, `iTXt` (UTF-8) elsewhere."""
    name = keyword.encode("latin-1")
    if not 0 < len(name) < 80 or "\0" in keyword + value:
        raise ValueError(f"not a PNG text of 1 to 79 characters' keyword: {keyword!r}")
    try:
        return _chunk(b"tEXt", name + b"\0" + value.encode("latin-1"))
    except UnicodeEncodeError:
        # Behind the keyword: not compressed, no method, no language, no translated keyword.
        return _chunk(b"iTXt", name + b"\0\0\0\0\0" + value.encode("utf-8"))


def _per_metre(dpi: float) -> int:
    return min(max(round(dpi / _INCH), 1), LONGEST_SIDE)


def _deflated(rgba: Pixels) -> Iterator[bytes]:
    """One zlib stream over the filtered rows, cut where strips end."""
    height, width, _ = rgba.shape
    rows = max(1, _STRIP_BYTES // (4 * width))
    deflate = isal_zlib.compressobj(level=1)
    for top in range(0, height, rows):
        if data := deflate.compress(_filtered(rgba[top : top + rows])):
            yield data
    yield deflate.flush()


def _filtered(strip: Pixels) -> Pixels:
    """[h, 1 + 4W]: each row's filter type, then each byte less the one a pixel to its left."""
    height, width, _ = strip.shape
    rows = strip.reshape(height, 4 * width)
    filtered = np.empty((height, 1 + 4 * width), np.uint8)
    filtered[:, 0] = _SUB
    filtered[:, 1:5] = rows[:, :4]
    np.subtract(rows[:, 4:], rows[:, :-4], out=filtered[:, 5:])
    return filtered


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return b"".join((len(body).to_bytes(4), kind, body, check.to_bytes(4)))


def _chunks(start: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk that is whole and undamaged, up to the first that is not."""
    at = len(SIGNATURE)
    while at + 12 <= len(start):
        end = at + 8 + int.from_bytes(start[at : at + 4])
        if isal_zlib.crc32(start[at + 4 : end]).to_bytes(4) != start[end : end + 4]:
            return
        yield start[at + 4 : at + 8], start[at + 8 : end]
        at = end + 4
