"""Detection of a file's format by its first bytes, and the error if no codec takes it."""

from __future__ import annotations

from collections.abc import Iterator

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import png, tiff

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""Read by Pillow, whose JPEG reader detects MPO."""
HEIF = "HEIF"
"""Read by pillow-heif, the extra `heic`."""
RAW = frozenset({"CR2", "CR3", "ORF", "RAF", "RW2", tiff.DNG, *tiff.RAW_OF_MAKERS.values()})
"""Read by rawpy, the extra `raw`."""

SIGNATURE = 1024
"""Bytes at a file's start from which its format is detected."""

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    png.SIGNATURE: "PNG",
    b"FUJIFILMCCD-RAW": "RAF",
    b"IIRO": "ORF",
    b"IIRS": "ORF",
    b"MMOR": "ORF",
    b"IIU\0": "RW2",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\0\0\1\0": "ICO",
    b"v/1\1": "OpenEXR",
    b"qoif": "QOI",
    b"DDS ": "DDS",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def detect_format(data: bytes) -> str | None:
    """Return the name of the format, whether or not bgpipe reads it."""
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return _detect_tiff(data) if name == "TIFF" else name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _detect_iso_media(data)
    return "SVG" if b"<svg" in data[:1024] else None


def is_readable(head: bytes) -> bool:
    """Whether a file with these first bytes has a format that bgpipe reads."""
    return detect_format(head) in (*FORMATS, HEIF)


def is_cut_short(name: str, data: bytes) -> bool:
    """Whether the container announces more bytes than there are."""
    match name:
        case "PNG":
            return b"IEND" not in data
        case "JPEG":
            return b"\xff\xd9" not in data
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "AVIF" | "HEIF":
            return any(end > len(data) for end in _box_ends(data))
    return False


def header_error(data: bytes) -> PermanentError:
    """Explain why no codec took the header."""
    name = detect_format(data)
    if name is None:
        return PermanentError(Code.NOT_IMAGE, "the content is not a known image format")
    if name not in (*FORMATS, HEIF):
        return PermanentError(Code.UNSUPPORTED, f"{name} is not supported: convert to PNG or JPEG")
    if is_cut_short(name, data):
        return truncation_error(name, f"{len(data)} bytes are there")
    if name == "PNG":  # few forms are valid and the header has a checksum: this one is damaged
        return PermanentError(Code.NOT_IMAGE, "the header of this PNG is damaged")
    return PermanentError(Code.UNSUPPORTED, f"unsupported kind of {name}, or damaged")


def truncation_error(name: str | None, detail: object) -> PermanentError:
    return PermanentError(Code.TRUNCATED, f"{name} cut short or damaged: {detail}")


def _detect_tiff(data: bytes) -> str:
    if data[8:11] == b"CR\2":
        return "CR2"
    return tiff.detect_raw(data) or "TIFF"


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
