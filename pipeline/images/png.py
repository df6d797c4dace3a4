"""PNG: an encoder many times faster than one on zlib, and the text chunks.

All rows get one filter, a subtraction in numpy, and ISA-L deflates at its fastest level. On photos
the better filter is mostly Up, which subtracts the row above, sometimes Sub, the pixel to the left:
some rows are tried. Sizes against filters chosen row by row: infra/docs/performance.md.
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

    from bgpipe.pipeline.types import Pixels, Pixels16

    Samples = Pixels | Pixels16
    """Gray [H, W], RGB [H, W, 3] or RGBA [H, W, 4]."""

SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
"""The first and the last bytes of a complete file."""

_MAX_INTEGER = 2**31 - 1
# Between keyword and text: in iTXt not compressed, no method, no language, no translated keyword.
_TEXT = {b"tEXt": (b"\0", "latin-1"), b"iTXt": (b"\0\0\0\0\0", "utf-8")}
_SUB, _UP = 1, 2
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
_TRIAL_STRIPS = 8
_TRIAL_ROWS = 2  # of a strip, at least
_TRIAL_SHARE = 64  # of the rows, one in this many
_HEADER_BYTES = len(SIGNATURE) + 25
_STRIP_BYTES = 1 << 20  # filtered and deflated while it is in the cache
_MEMORY = 9  # zlib's scale: ISA-L is fastest with the most
_INCH = 0.0254


def encode(
    samples: Samples,
    *,
    text: Mapping[str, str],
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """Encode the samples in their depth, the text right behind the header.

    Raises ValueError: invalid keyword or text, or the samples are not of an image.
    """
    header = _chunk(b"IHDR", _header(samples))
    data = (_chunk(b"IDAT", piece) for piece in _deflated(samples))
    return b"".join((SIGNATURE, header, *_annotations(text, icc, dpi), *data, END))


def annotate(
    data: bytes,
    *,
    text: Mapping[str, str],
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """Insert the text right behind the header of a PNG by another encoder."""
    head, rest = data[:_HEADER_BYTES], data[_HEADER_BYTES:]
    return b"".join((head, *_annotations(text, icc, dpi), rest))


def read_text(start: bytes) -> dict[str, str]:
    """Read the complete text chunks in the first bytes of a file; {} if it is not a PNG."""
    if not start.startswith(SIGNATURE):
        return {}
    text = {}
    for kind, body in _chunks(start):
        if kind in _TEXT:
            separator, encoding = _TEXT[kind]
            keyword, _, value = body.partition(separator)
            text[keyword.decode("latin-1")] = value.decode(encoding, "replace")
    return text


def _annotations(
    text: Mapping[str, str], icc: bytes | None, dpi: tuple[float, float] | None
) -> Iterator[bytes]:
    for keyword, value in text.items():
        name = keyword.encode("latin-1")
        if not 0 < len(name) < 80 or "\0" in keyword + value:
            raise ValueError(f"PNG keywords have 1 to 79 characters, none of them NUL: {keyword!r}")
        kind = b"tEXt" if all(ord(character) < 256 for character in value) else b"iTXt"
        separator, encoding = _TEXT[kind]
        yield _chunk(kind, name + separator + value.encode(encoding))
    if icc:
        yield _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi:
        per_meter = (min(max(round(value / _INCH), 1), _MAX_INTEGER) for value in dpi)
        yield _chunk(b"pHYs", struct.pack(">IIB", *per_meter, 1))


def _header(samples: Samples) -> bytes:
    height, width, *channels = (*samples.shape, 1)[:3]
    kind = _COLOR_TYPES.get(channels[0]) if samples.ndim in (2, 3) else None
    if kind is None or not 0 < height <= _MAX_INTEGER or not 0 < width <= _MAX_INTEGER:
        raise ValueError(f"not the shape of an image: {samples.shape}")
    return struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, kind, 0, 0, 0)


def _deflated(samples: Samples) -> Iterator[bytes]:
    """Yield one zlib stream over the filtered rows, in pieces."""
    height, width = samples.shape[:2]
    pixel = samples.itemsize * (samples.shape[2] if samples.ndim == 3 else 1)
    count = max(1, _STRIP_BYTES // (pixel * width))
    kind = _choose_filter(samples, pixel)
    deflate = isal_zlib.compressobj(level=1, memLevel=_MEMORY)
    for top in range(0, height, count):
        if data := deflate.compress(_strip(samples, top, count, pixel, kind)):
            yield data
    yield deflate.flush()


def _choose_filter(samples: Samples, pixel: int) -> int:
    """Return the filter that makes some strips of the image smaller."""
    height = len(samples)
    count = min(height, max(_TRIAL_ROWS, height // (_TRIAL_SHARE * _TRIAL_STRIPS)))
    tops = np.linspace(0, height - count, min(_TRIAL_STRIPS, height), dtype=int)

    def size(kind: int) -> int:
        strips = (_strip(samples, top, count, pixel, kind).tobytes() for top in tops)
        return len(isal_zlib.compress(b"".join(strips), 1))

    return min((_UP, _SUB), key=size)


def _strip(samples: Samples, top: int, count: int, pixel: int, kind: int) -> Pixels:
    """Return rows [count, 1 + bytes] from `top` on, each behind the number of its filter."""
    rows = _bytes(samples[top : top + count])
    height, length = rows.shape
    filtered = np.empty((height, 1 + length), np.uint8)
    filtered[:, 0] = kind
    if kind == _SUB:
        filtered[:, 1 : 1 + pixel] = rows[:, :pixel]
        np.subtract(rows[:, pixel:], rows[:, :-pixel], out=filtered[:, 1 + pixel :])
    else:
        above = _bytes(samples[top - 1 : top]) if top else np.zeros((1, length), np.uint8)
        np.subtract(rows[:1], above, out=filtered[:1, 1:])
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _bytes(rows: Samples) -> Pixels:
    """Return the rows as stored, [H, bytes of a row]: 16-bit samples with their high byte first."""
    stored = np.ascontiguousarray(rows, ">u2" if rows.itemsize == 2 else np.uint8)
    return stored.view(np.uint8).reshape(len(rows), -1)


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = isal_zlib.crc32(body, isal_zlib.crc32(kind))
    return b"".join((len(body).to_bytes(4), kind, body, check.to_bytes(4)))


def _chunks(start: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and body of each chunk up to the first that is incomplete or damaged."""
    offset = len(SIGNATURE)
    while offset + 12 <= len(start):
        kind, body = offset + 4, offset + 8
        end = body + int.from_bytes(start[offset:kind])
        if isal_zlib.crc32(start[kind:end]).to_bytes(4) != start[end : end + 4]:
            return
        yield start[kind:body], start[body:end]
        offset = end + 4
