"""Camera RAW to upright sRGB by LibRaw: rawpy, the extra `raw`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.formats import detect_format, truncation_error
from bgpipe.pipeline.images.limits import check_bytes, check_size
from bgpipe.pipeline.types import DecodedImage

if TYPE_CHECKING:
    from rawpy import RawPy

    from bgpipe.pipeline.images.limits import Limits

_SRGB_CURVE = (2.4, 12.92)


def read_raw_size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Read width and height from the header. Raises as `decode_raw` does."""
    with _open(data, limits) as raw:
        return raw.sizes.width, raw.sizes.height


def decode_raw(data: bytes, limits: Limits, keep_16_bits: bool) -> DecodedImage:
    """Decode with the camera's white balance and exposure; `keep_16_bits` adds 16-bit samples.

    Raises PermanentError: UNSUPPORTED, TOO_LARGE or TRUNCATED.
    """
    with _open(data, limits) as raw:
        samples = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,  # keeps a series of photos alike
            gamma=_SRGB_CURVE,
            output_bps=16 if keep_16_bits else 8,
        )
    if samples.shape[2] == 1:  # a sensor without color filters
        samples = np.repeat(samples, 3, axis=2)
    # Some sensors are rotated by 45 degrees.
    check_size((samples.shape[1], samples.shape[0]), limits)
    if not keep_16_bits:
        return DecodedImage(samples)
    return DecodedImage((samples >> 8).astype(np.uint8), rgb16=samples.view(np.uint16))


@contextmanager
def _open(data: bytes, limits: Limits) -> Iterator[RawPy]:
    """Open the file: its header is read, its size within the limits."""
    try:
        import rawpy
    except ImportError as error:
        detail = "camera RAW needs rawpy: pip install 'bgpipe[raw]'"
        raise PermanentError(Code.UNSUPPORTED, detail) from error
    check_bytes(data, limits)
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            sizes = raw.sizes  # the raw ones include margins, which are decoded as well
            width, height = max(sizes.raw_width, sizes.width), max(sizes.raw_height, sizes.height)
            check_size((width, height), limits)
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
