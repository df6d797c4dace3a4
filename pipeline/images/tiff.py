"""The directories of a TIFF, read without a codec.

The RAW files of most cameras are TIFFs too: their photometric interpretation distinguishes them
(TIFF/EP, DNG 1.7).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal

RAW_OF_MAKERS = {
    b"NIKON": "NEF",
    b"SONY": "ARW",
    b"PENTAX": "PEF",
    b"RICOH": "PEF",
    b"SAMSUNG": "SRW",
}
DNG = "DNG"

_PHOTOMETRIC, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION = 262, 271, 330, 50706
_SENSOR_DATA = {32803, 34892}
"""Photometric interpretations: color filter array, linear RAW."""
_WIDTHS = {3: 2, 4: 4, 13: 4}
"""Bytes of a SHORT, a LONG and an IFD; values of other types are read byte by byte."""
# Maxima: a hostile file may announce any number of each.
_DIRECTORIES, _ENTRIES, _VALUE_BYTES = 32, 512, 64


def find_directories(data: bytes) -> Iterator[int]:
    """Yield the offset of each directory (TIFF 6.0, section 2; BigTIFF's fields are wider)."""
    order = _byte_order(data)
    big = b"+" in data[2:4]
    pointer, counter, entry = (8, 8, 20) if big else (4, 2, 12)
    seen: set[int] = set()
    offset = _read_number(data, 8 if big else 4, pointer, order)
    while 0 < offset < len(data) and offset not in seen:
        yield offset
        seen.add(offset)
        entries = _read_number(data, offset, counter, order)
        offset = _read_number(data, offset + counter + entries * entry, pointer, order)


def detect_raw(data: bytes) -> str | None:
    """Return the name of a camera's RAW format; None for an ordinary TIFF."""
    if b"+" in data[2:4]:  # BigTIFF, which no camera writes
        return None
    tops = list(islice(find_directories(data), _DIRECTORIES))
    if tops and _read_integers(data, tops[0], _DNG_VERSION):
        return DNG
    subs = [offset for top in tops for offset in _read_integers(data, top, _SUB_DIRECTORIES)]
    directories = (*tops, *subs)[:_DIRECTORIES]
    kinds = {kind for each in directories for kind in _read_integers(data, each, _PHOTOMETRIC)}
    if not kinds & _SENSOR_DATA:
        return None
    maker = bytes(_read_integers(data, tops[0], _MAKE)).upper()
    # LibRaw reads the files of more makers.
    return next((name for make, name in RAW_OF_MAKERS.items() if maker.startswith(make)), DNG)


def _read_integers(data: bytes, directory: int, tag: int) -> list[int]:
    """Read the values of a tag, as many as fit into _VALUE_BYTES; [] if it is missing."""
    order = _byte_order(data)
    count = min(_read_number(data, directory, 2, order), _ENTRIES)
    for offset in range(directory + 2, directory + 2 + 12 * count, 12):
        if _read_number(data, offset, 2, order) == tag:
            width = _WIDTHS.get(_read_number(data, offset + 2, 2, order), 1)
            length = min(width * _read_number(data, offset + 4, 4, order), _VALUE_BYTES)
            start = offset + 8 if length <= 4 else _read_number(data, offset + 8, 4, order)
            stop = min(start + length, len(data))
            return [_read_number(data, value, width, order) for value in range(start, stop, width)]
    return []


def _byte_order(data: bytes) -> Literal["little", "big"]:
    return "little" if data.startswith(b"II") else "big"


def _read_number(data: bytes, offset: int, length: int, order: Literal["little", "big"]) -> int:
    return int.from_bytes(data[offset : offset + length], order)
