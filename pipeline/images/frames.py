"""The number of frames in a file, counted without decoding one.

Pillow counts the frames of a GIF and the pages of a TIFF in time that a hostile file can stretch to
hours; here counting ends at a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.header import FRAMES
from bgpipe.pipeline.images.tiff import find_directories

if TYPE_CHECKING:
    from PIL.Image import Image

    from bgpipe.pipeline.images.limits import Limits

_MAX_BLOCKS = 1_000_000
"""Data blocks of a GIF that are walked through; frames behind them are not counted."""
_GIF_HEADER = 13
_EXTENSION, _IMAGE = 0x21, 0x2C


def count_frames(image: Image, data: bytes, limits: Limits) -> int:
    """Count the frames, pages or pictures of the opened file `data`.

    Raises:
        PermanentError: TOO_LARGE, there are more than the limits allow.

    """
    count: int
    if image.format in ("GIF", "TIFF"):
        starts = _find_gif_frames(data) if image.format == "GIF" else find_directories(data)
        count = sum(1 for _ in islice(starts, limits.max_frames + 1))
    else:
        count = image.info.get(FRAMES, getattr(image, "n_frames", 1))
    if count > limits.max_frames:
        raise PermanentError(
            Code.TOO_LARGE, f"more frames than images may have: {limits.max_frames}"
        )
    return max(count, 1)


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
