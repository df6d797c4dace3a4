"""What a file is, by its first bytes, and why a file that no codec takes is refused."""

from __future__ import annotations

from collections.abc import Iterator

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import png, tiff

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""What Pillow may try; its reader of JPEG sees what is MPO."""
HEIF = "HEIF"
"""Read by pillow-heif, the extra `heic`."""
RAW = frozenset({"CR2", "CR3", "ORF", "RAF", "RW2", tiff.DNG, *tiff.RAW_OF_MAKERS.values()})
"""Read by rawpy, the extra `raw`."""

SIGNATURE = 1024
"""Bytes at a file's start that tell its format."""

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


def format_of(data: bytes) -> str | None:
    """The name of the format, whether or not it is one of those that are read."""
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return _tiff_format(data) if name == "TIFF" else name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _box_format(data)
    return "SVG" if b"<svg" in data[:1024] else None


def is_readable(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in a format that is read."""
    return format_of(head) in (*FORMATS, HEIF)


def is_cut_short(name: str, data: bytes) -> bool:
    """Whether the container says that more bytes belong to it."""
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


def refusal(data: bytes) -> PermanentError:
    """Why no codec took the header."""
    name = format_of(data)
    if name is None:
        return PermanentError(Code.NOT_IMAGE, "the content is no image format that is known")
    if name not in (*FORMATS, HEIF):
        return PermanentError(Code.UNSUPPORTED, f"{name} is not read: convert it to PNG or JPEG")
    if is_cut_short(name, data):
        return truncated(name, f"{len(data)} bytes are there")
    if name == "PNG":  # few forms are valid and the header has a checksum: this one is damaged
        return PermanentError(Code.NOT_IMAGE, "the header of this PNG is damaged")
    return PermanentError(Code.UNSUPPORTED, f"a kind of {name} that is not read, or damaged")


def truncated(name: str | None, detail: object) -> PermanentError:
    return PermanentError(Code.TRUNCATED, f"{name} cut short or damaged: {detail}")


def _tiff_format(data: bytes) -> str:
    if data[8:11] == b"CR\2":
        return "CR2"
    return tiff.raw_format(data) or "TIFF"


def _box_format(data: bytes) -> str | None:
    """What the brands of an ISO media file promise: the major one and the compatible ones."""
    brands = data[8 : min(int.from_bytes(data[:4]), 256)] or data[8:64]
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    if brands[:4] == b"crx ":
        return "CR3"
    return HEIF if brands[:4] in _HEIF_BRANDS else None


def _box_ends(data: bytes) -> Iterator[int]:
    """Where each top-level box of an ISO media file says that it ends."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4])
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16])
        if length < 8:  # 0: up to the end of the file
            return
        at += length
        yield at
