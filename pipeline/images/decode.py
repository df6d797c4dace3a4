"""Decode the bytes of a file to upright pixels. Camera RAW needs rawpy (LibRaw), the extra `raw`."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.formats import RAW, check_complete, detect_format, truncation_error
from bgpipe.pipeline.images.header import (
    count_frames,
    open_image,
    read_orientation,
    read_resolution,
)
from bgpipe.pipeline.images.samples import read_samples
from bgpipe.pipeline.types import DecodedImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rawpy import RawPy

    from bgpipe.pipeline.images.limits import Limits
    from bgpipe.pipeline.types import Pixels, Pixels16

    Samples = TypeVar("Samples", Pixels, Pixels16)

_SRGB_CURVE = (2.4, 12.92)
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
        return _decode_raw(data, limits, keep_16_bits)
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
    if detect_format(data) in RAW:
        with _open_raw(data, limits) as raw:
            return raw.sizes.width * raw.sizes.height
    width, height = open_image(data, limits).size
    return width * height


def validate_header(data: bytes, limits: Limits) -> str:
    """Return the format of a file that seems complete; no pixel is decoded.

    Raises PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.
    """
    read_pixel_count(data, limits)
    name = detect_format(data)
    if name is None:
        raise truncation_error(name, f"{len(data)} bytes are there")
    check_complete(name, data)
    return name


def _turn(pixels: Samples, turn: tuple[bool, int | None]) -> Samples:
    if turn == _UPRIGHT:
        return pixels
    transposed, flip = turn
    try:
        import cv2
    except ImportError:  # in the control image, which only makes thumbnails (decisions/0008)
        # The same pixels, in five times the time.
        upright = pixels.swapaxes(0, 1) if transposed else pixels
        down, across = (-1 if flip in axes else 1 for axes in ({0, -1}, {1, -1}))
        return np.ascontiguousarray(upright[::down, ::across])
    turned = cv2.transpose(pixels) if transposed else pixels
    return np.asarray(turned if flip is None else cv2.flip(turned, flip), pixels.dtype)


def _decode_raw(data: bytes, limits: Limits, keep_16_bits: bool) -> DecodedImage:
    """Decode with the camera's white balance and exposure; `keep_16_bits` adds 16-bit samples.

    Raises PermanentError: UNSUPPORTED, TOO_LARGE or TRUNCATED.
    """
    with _open_raw(data, limits) as raw:
        samples = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,  # keeps a series of photos alike
            gamma=_SRGB_CURVE,
            output_bps=16 if keep_16_bits else 8,
        )
    if samples.shape[2] == 1:  # a sensor without color filters
        samples = np.repeat(samples, 3, axis=2)
    # Some sensors are rotated by 45 degrees.
    limits.check_size(samples.shape[1], samples.shape[0])
    if not keep_16_bits:
        return DecodedImage(samples)
    return DecodedImage((samples >> 8).astype(np.uint8), rgb16=samples.view(np.uint16))


@contextmanager
def _open_raw(data: bytes, limits: Limits) -> Iterator[RawPy]:
    """Open the file: its header is read, its size within the limits."""
    try:
        import rawpy
    except ImportError as error:
        detail = "camera RAW needs rawpy: pip install 'bgpipe[raw]'"
        raise PermanentError(Code.UNSUPPORTED, detail) from error
    limits.check_bytes(data)
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            sizes = raw.sizes  # the raw ones include margins, which are decoded as well
            width, height = max(sizes.raw_width, sizes.width), max(sizes.raw_height, sizes.height)
            limits.check_size(width, height)
            yield raw
    except rawpy.LibRawTooBigError as error:
        raise PermanentError(Code.TOO_LARGE, f"LibRaw: {_message(error)}") from error
    except (
        rawpy.LibRawFileUnsupportedError,
        rawpy.LibRawNotImplementedError,
        rawpy.NotSupportedError,
    ) as error:
        detail = f"kind of {detect_format(data)} that LibRaw does not support, or damaged"
        raise PermanentError(Code.UNSUPPORTED, detail) from error
    except (rawpy.LibRawError, OSError, MemoryError) as error:
        raise truncation_error(detect_format(data), _message(error)) from error


def _message(error: Exception) -> str:
    """Return LibRaw's message, which rawpy passes on as bytes."""
    (message,) = error.args or (error,)
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)
