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
_OF_A_SENSOR = {32803, 34892}
"""Photometric interpretations: color filter array, linear RAW."""
_WIDTHS = {3: 2, 4: 4, 13: 4}
"""Bytes of a SHORT, a LONG and an IFD; other kinds are taken byte by byte."""
# A hostile file may announce any number of each.
_DIRECTORIES, _ENTRIES, _VALUE_BYTES = 32, 512, 64


def pages(data: bytes) -> Iterator[int]:
    """Where each directory starts (TIFF 6.0, section 2; BigTIFF's fields are wider)."""
    order = _order(data)
    big = b"+" in data[2:4]
    pointer, counter, entry = (8, 8, 20) if big else (4, 2, 12)
    seen: set[int] = set()
    at = _number(data, 8 if big else 4, pointer, order)
    while 0 < at < len(data) and at not in seen:
        yield at
        seen.add(at)
        entries = _number(data, at, counter, order)
        at = _number(data, at + counter + entries * entry, pointer, order)


def raw_format(data: bytes) -> str | None:
    """The name of a camera's RAW format; None for an ordinary TIFF."""
    if b"+" in data[2:4]:  # BigTIFF, which no camera writes
        return None
    tops = list(islice(pages(data), _DIRECTORIES))
    if tops and _integers(data, tops[0], _DNG_VERSION):
        return DNG
    subs = [at for top in tops for at in _integers(data, top, _SUB_DIRECTORIES)]
    directories = (*tops, *subs)[:_DIRECTORIES]
    if not any(_OF_A_SENSOR.intersection(_integers(data, at, _PHOTOMETRIC)) for at in directories):
        return None
    maker = bytes(_integers(data, tops[0], _MAKE)).upper()
    # LibRaw reads the files of more makers, whatever they are called.
    return next((name for make, name in RAW_OF_MAKERS.items() if maker.startswith(make)), DNG)


def _integers(data: bytes, directory: int, tag: int) -> list[int]:
    """The values of a tag, as many as fit into _VALUE_BYTES; none where it is missing."""
    order = _order(data)
    count = min(_number(data, directory, 2, order), _ENTRIES)
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        if _number(data, at, 2, order) == tag:
            width = _WIDTHS.get(_number(data, at + 2, 2, order), 1)
            length = min(width * _number(data, at + 4, 4, order), _VALUE_BYTES)
            start = at + 8 if length <= 4 else _number(data, at + 8, 4, order)
            stop = min(start + length, len(data))
            return [_number(data, here, width, order) for here in range(start, stop, width)]
    return []


def _order(data: bytes) -> Literal["little", "big"]:
    return "little" if data.startswith(b"II") else "big"


def _number(data: bytes, at: int, length: int, order: Literal["little", "big"]) -> int:
    return int.from_bytes(data[at : at + length], order)
