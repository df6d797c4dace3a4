"""Detection of a file's format by its first bytes, and the error if no codec takes it.

The RAW files of most cameras are TIFFs, whose directories are read without a codec.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Literal

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import png

_RAW_OF_MAKERS = {
    b"NIKON": "NEF",
    b"SONY": "ARW",
    b"PENTAX": "PEF",
    b"RICOH": "PEF",
    b"SAMSUNG": "SRW",
}
_DNG = "DNG"

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""Read by Pillow, whose JPEG reader detects MPO."""
HEIF = "HEIF"
"""Read by pillow-heif, the extra `heic`."""
RAW = frozenset({"CR2", "CR3", "ORF", "RAF", "RW2", _DNG, *_RAW_OF_MAKERS.values()})
"""Read by rawpy, the extra `raw`."""

SIGNATURE = 1024
"""Bytes at a file's start from which its format is detected."""

_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (png.SIGNATURE,),
    "RAF": (b"FUJIFILMCCD-RAW",),
    "ORF": (b"IIRO", b"IIRS", b"MMOR"),
    "RW2": (b"IIU\0",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": (b"GIF8",),
    "BMP": (b"BM",),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "Photoshop": (b"8BPS",),
    "PDF": (b"%PDF",),
    "PostScript": (b"%!PS",),
    "ICO": (b"\0\0\1\0",),
    "OpenEXR": (b"v/1\1",),
    "QOI": (b"qoif",),
    "DDS": (b"DDS ",),
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}

_PHOTOMETRIC, _MAKE, _SUB_DIRECTORIES, _DNG_VERSION = 262, 271, 330, 50706
_SENSOR_DATA = {32803, 34892}
"""Photometric interpretations: color filter array, linear RAW."""
_TAG_WIDTHS = {3: 2, 4: 4, 13: 4}
"""Bytes of a SHORT, a LONG and an IFD; values of other types are read byte by byte."""
# Maxima: a hostile file may announce any number of each.
_DIRECTORIES, _ENTRIES, _VALUE_BYTES = 32, 512, 64


def detect_format(data: bytes) -> str | None:
    """Return the name of the format, whether or not bgpipe reads it."""
    for name, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return _detect_tiff(data) if name == "TIFF" else name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _detect_iso_media(data)
    return "SVG" if b"<svg" in data[:1024] else None


def is_readable(head: bytes) -> bool:
    """Whether a file with these first bytes has a format that bgpipe reads."""
    return detect_format(head) in (*FORMATS, HEIF)


def check_complete(name: str, data: bytes) -> None:
    """Raise PermanentError if the container announces more bytes than there are: TRUNCATED."""
    if name in _END_MARKS:
        is_complete = _END_MARKS[name] in data
    elif name == "WEBP":
        is_complete = int.from_bytes(data[4:8], "little") + 8 <= len(data)
    else:
        is_complete = name not in ("AVIF", HEIF) or max(_box_ends(data), default=0) <= len(data)
    if not is_complete:
        raise truncation_error(name, f"{len(data)} bytes are there")


def header_error(data: bytes) -> PermanentError:
    """Explain why no codec took the header; raises the error of `check_complete`."""
    name = detect_format(data)
    if name is None:
        return PermanentError(Code.NOT_IMAGE, "the content is not a known image format")
    if name not in (*FORMATS, HEIF):
        return PermanentError(Code.UNSUPPORTED, f"{name} is not supported: convert to PNG or JPEG")
    check_complete(name, data)
    if name == "PNG":  # few forms are valid and the header has a checksum: this one is damaged
        return PermanentError(Code.NOT_IMAGE, "the header of this PNG is damaged")
    return PermanentError(Code.UNSUPPORTED, f"unsupported kind of {name}, or damaged")


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


def truncation_error(name: str | None, detail: object) -> PermanentError:
    return PermanentError(Code.TRUNCATED, f"{name} cut short or damaged: {detail}")


def _detect_tiff(data: bytes) -> str:
    """Tell RAW from an ordinary TIFF by the photometric interpretation (TIFF/EP, DNG 1.7)."""
    if data[8:11] == b"CR\2":
        return "CR2"
    if b"+" in data[2:4]:  # BigTIFF, which no camera writes
        return "TIFF"
    tops = list(islice(find_directories(data), _DIRECTORIES))
    if tops and _read_integers(data, tops[0], _DNG_VERSION):
        return _DNG
    subs = [offset for top in tops for offset in _read_integers(data, top, _SUB_DIRECTORIES)]
    directories = (*tops, *subs)[:_DIRECTORIES]
    kinds = {kind for each in directories for kind in _read_integers(data, each, _PHOTOMETRIC)}
    if not kinds & _SENSOR_DATA:
        return "TIFF"
    maker = bytes(_read_integers(data, tops[0], _MAKE)).upper()
    # LibRaw reads the files of more makers.
    return next((name for make, name in _RAW_OF_MAKERS.items() if maker.startswith(make)), _DNG)


def _detect_iso_media(data: bytes) -> str | None:
    """Detect by the brands of an ISO media file: the major one and the compatible ones."""
    brands = data[8 : min(int.from_bytes(data[:4]), 256)] or data[8:64]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    if brands[:4] == b"crx ":
        return "CR3"
    return HEIF if brands[:4] in _HEIF_BRANDS else None


def _box_ends(data: bytes) -> Iterator[int]:
    """Yield where each top-level box of an ISO media file ends by its header."""
    start = 0
    while start + 8 <= len(data):
        length = int.from_bytes(data[start : start + 4])
        if length == 1:
            length = int.from_bytes(data[start + 8 : start + 16])
        if length < 8:  # 0: up to the end of the file
            return
        start += length
        yield start


def _read_integers(data: bytes, directory: int, tag: int) -> list[int]:
    """Read the values of a tag, as many as fit into _VALUE_BYTES; [] if it is missing."""
    order = _byte_order(data)
    count = min(_read_number(data, directory, 2, order), _ENTRIES)
    for offset in range(directory + 2, directory + 2 + 12 * count, 12):
        if _read_number(data, offset, 2, order) == tag:
            width = _TAG_WIDTHS.get(_read_number(data, offset + 2, 2, order), 1)
            length = min(width * _read_number(data, offset + 4, 4, order), _VALUE_BYTES)
            start = offset + 8 if length <= 4 else _read_number(data, offset + 8, 4, order)
            stop = min(start + length, len(data))
            return [_read_number(data, value, width, order) for value in range(start, stop, width)]
    return []


def _byte_order(data: bytes) -> Literal["little", "big"]:
    return "little" if data.startswith(b"II") else "big"


def _read_number(data: bytes, offset: int, length: int, order: Literal["little", "big"]) -> int:
    return int.from_bytes(data[offset : offset + length], order)
