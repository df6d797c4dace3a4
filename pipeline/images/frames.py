"""How many pictures a file holds, counted without decoding one.

Pillow counts the frames of a GIF and the pages of a TIFF in time that a hostile file can stretch to
hours; here a count ends at a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.header import IMAGE_FORMATS
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.tiff import pages

if TYPE_CHECKING:
    from PIL.Image import Image

_BLOCKS = 1_000_000
"""Data blocks of a GIF walked through before what was counted has to do."""
_GIF_HEADER = 13
_EXTENSION, _IMAGE = 0x21, 0x2C


def count_frames(image: Image, data: bytes, limits: Limits) -> int:
    """Frames, pages or pictures of the open file.

    Raises:
        PermanentError: TOO_LARGE, there are more than the limits allow.

    """
    count: int
    if image.format in ("GIF", "TIFF"):
        starts = _gif_frames(data) if image.format == "GIF" else pages(data)
        count = sum(1 for _ in islice(starts, limits.max_frames + 1))
    else:
        count = image.info.get(IMAGE_FORMATS, getattr(image, "n_frames", 1))
    if count > limits.max_frames:
        raise PermanentError(Code.TOO_LARGE, f"more frames than images allow: {limits.max_frames}")
    return max(count, 1)


def _gif_frames(data: bytes) -> Iterator[int]:
    """Where each frame starts (GIF89a, section 20)."""
    at = _GIF_HEADER + _table_bytes(data, 10)
    blocks = 0
    while at + 10 < len(data) and data[at] in (_EXTENSION, _IMAGE) and blocks < _BLOCKS:
        if data[at] == _IMAGE:
            yield at
            at += 11 + _table_bytes(data, at + 9)  # descriptor, colours, code size
        else:
            at += 2
        while at < len(data) and data[at] and blocks < _BLOCKS:
            at += 1 + data[at]
            blocks += 1
        at += 1


def _table_bytes(data: bytes, flags: int) -> int:
    """Bytes of the colour table that the flags at this place announce."""
    packed = data[flags] if flags < len(data) else 0
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0
