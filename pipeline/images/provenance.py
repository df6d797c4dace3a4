"""The text in a cutout's file about its provenance, which also shows whether the file is complete.

A PNG has text chunks. The other formats carry an XMP packet (ISO 16684-1): a JPEG near its start,
WebP, AVIF and ZIP at their very end, where it proves that the file was written completely.
"""

import re
from collections.abc import Mapping
from xml.sax.saxutils import escape, unescape

from bgpipe.pipeline.images import png

RECIPE = "bgpipe:recipe"
"""Keyword of the recipe: bgpipe made the files that have it."""
SCORE = "bgpipe:score"
"""Keyword of the expected IoU of the matte."""
HEAD = 4096
"""Bytes at a file's start that hold the text of a PNG or JPEG."""
TAIL = 4096
"""Bytes at a file's end that hold the text of the other formats."""

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_NAMESPACE = "urn:bgpipe:xmp:1.0:"
_OPENING = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
_CLOSING = b'<?xpacket end="r"?>'
_ENTRY = re.compile(r'(bgpipe:\w+)="([^"]*)"')
_ENTITIES = {'"': "&quot;", "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}
"""Entities in attributes, in addition to those that `escape` always writes."""


def score_text(score: float | None) -> dict[str, str]:
    """Return the text of a score in [0, 1], if there is one."""
    return {} if score is None else {SCORE: f"{score:.2f}"}


def xmp_packet(text: Mapping[str, str]) -> bytes:
    """Return the text, its keywords in the form `bgpipe:word`, as an XMP packet."""
    entries = " ".join(f'{name}="{escape(value, _ENTITIES)}"' for name, value in text.items())
    body = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:bgpipe="{_NAMESPACE}" {entries}/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    even = b" " * (len(body.encode()) + len(_OPENING + _CLOSING) & 1)  # a RIFF file would pad it
    return _OPENING + body.encode() + even + _CLOSING


def read(head: bytes, tail: bytes) -> dict[str, str]:
    """Read the text of a file with these first and last bytes; {} if it is incomplete or has none."""
    if head.startswith(png.SIGNATURE):
        return png.read_text(head) if tail.endswith(png.END) else {}
    if head.startswith(_JPEG_START):
        return _read_packet(head) if tail.endswith(_JPEG_END) else {}
    return _read_packet(tail) if tail.endswith(_CLOSING) else {}


def is_ours(head: bytes, tail: bytes) -> bool:
    """Whether bgpipe made the file with these first and last bytes, complete or not."""
    if head.startswith(png.SIGNATURE):
        return RECIPE in png.read_text(head)
    return any(
        RECIPE.encode() in data[data.rfind(_OPENING) :] for data in (head, tail) if _OPENING in data
    )


def _read_packet(data: bytes) -> dict[str, str]:
    start = data.rfind(_OPENING)
    end = data.find(_CLOSING, start)
    if start < 0 or end < 0:
        return {}
    entries = _ENTRY.findall(data[start:end].decode("utf-8", "replace"))
    characters = {entity: character for character, entity in _ENTITIES.items()}
    return {name: unescape(value, characters) for name, value in entries}
