"""From the bytes of a file to upright pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bgpipe.pipeline.images.formats import RAW, detect_format, is_cut_short, truncation_error
from bgpipe.pipeline.images.header import (
    count_frames,
    open_image,
    read_orientation,
    read_resolution,
)
from bgpipe.pipeline.images.raw import decode_raw, read_raw_size
from bgpipe.pipeline.images.samples import read_samples

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import DecodedImage, Pixels, Pixels16

    Samples = TypeVar("Samples", Pixels, Pixels16)

_UPRIGHT = (False, None)
# By EXIF orientation: whether to transpose, then the flip of cv2 (1 left to right, 0 top to bottom, -1 both).
_TURNS: dict[int, tuple[bool, int | None]] = {
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}


def decode(data: bytes, limits: Limits, keep_16_bits: bool = False) -> DecodedImage:
    """Decode the first frame, upright; `keep_16_bits` adds 16-bit samples if the file has them.

    16-bit samples become 8 by their high byte. Colors keep the source's numbers and RGB profile;
    CMYK, LAB, camera RAW, and gray or RGB that only a table explains become sRGB.

    Raises PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.
    """
    if detect_format(data) in RAW:
        return decode_raw(data, limits, keep_16_bits)
    image = open_image(data, limits)
    frames = count_frames(image, data, limits)
    stored = read_samples(image, data, keep_16_bits=keep_16_bits)
    turn = _TURNS.get(read_orientation(image), _UPRIGHT)
    dpi = read_resolution(image)
    return replace(
        stored,
        rgb=_turn(stored.rgb, turn),
        alpha=None if stored.alpha is None else _turn(stored.alpha, turn),
        rgb16=None if stored.rgb16 is None else _turn(stored.rgb16, turn),
        dpi=dpi[::-1] if dpi and turn[0] else dpi,
        frames=frames,
    )


def read_pixel_count(data: bytes, limits: Limits) -> int:
    """Read the number of pixels from the header alone. Raises as `decode` does."""
    is_raw = detect_format(data) in RAW
    width, height = read_raw_size(data, limits) if is_raw else open_image(data, limits).size
    return width * height


def validate_header(data: bytes, limits: Limits) -> str:
    """Return the format of a file that seems complete; no pixel is decoded.

    Raises PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.
    """
    read_pixel_count(data, limits)
    name = detect_format(data)
    if name is None or is_cut_short(name, data):
        raise truncation_error(name, f"{len(data)} bytes are there")
    return name


def _turn(pixels: Samples, turn: tuple[bool, int | None]) -> Samples:
    if turn == _UPRIGHT:
        return pixels
    transposed, flip = turn
    try:
        import cv2
    except ImportError:  # in the control image, which only makes thumbnails (decisions/0007)
        # The same pixels, in five times the time.
        upright = pixels.swapaxes(0, 1) if transposed else pixels
        down, across = (-1 if flip in axes else 1 for axes in ({0, -1}, {1, -1}))
        return np.ascontiguousarray(upright[::down, ::across])
    turned = cv2.transpose(pixels) if transposed else pixels
    return np.asarray(turned if flip is None else cv2.flip(turned, flip), pixels.dtype)
