"""Camera RAW to upright sRGB by LibRaw: rawpy, the extra `raw`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.formats import format_of, truncated
from bgpipe.pipeline.images.limits import check_bytes, check_size
from bgpipe.pipeline.types import DecodedImage

if TYPE_CHECKING:
    from rawpy import RawPy

    from bgpipe.pipeline.images.limits import Limits

_SRGB_CURVE = (2.4, 12.92)


def read_raw_size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Width and height of the sensor's picture, from the header. Raises as `decode_raw` does."""
    with _opened(data, limits) as raw:
        return raw.sizes.width, raw.sizes.height


def decode_raw(data: bytes, limits: Limits, keep_16_bits: bool) -> DecodedImage:
    """Camera white balance, exposure as taken, the sRGB curve; with `deep`, 16 bits too.

    Raises:
        PermanentError: UNSUPPORTED, TOO_LARGE or TRUNCATED.

    """
    with _opened(data, limits) as raw:
        samples = raw.postprocess(
            use_camera_wb=True,
            no_auto_bright=True,  # photos of a series stay alike
            gamma=_SRGB_CURVE,
            output_bps=16 if keep_16_bits else 8,
        )
    if samples.shape[2] == 1:  # a sensor without color filters
        samples = np.repeat(samples, 3, axis=2)
    check_size(
        (samples.shape[1], samples.shape[0]), limits
    )  # of a sensor that stands on its corner
    if not keep_16_bits:
        return DecodedImage(samples)
    return DecodedImage((samples >> 8).astype(np.uint8), rgb16=samples.view(np.uint16))


@contextmanager
def _opened(data: bytes, limits: Limits) -> Iterator[RawPy]:
    """The file with its header read and its size within the limits."""
    try:
        import rawpy
    except ImportError as error:
        raise PermanentError(
            Code.UNSUPPORTED, "camera RAW is read with rawpy: pip install 'bgpipe[raw]'"
        ) from error
    check_bytes(data, limits)
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            sizes = raw.sizes  # with the margins, which are decoded as well
            across, down = (sizes.raw_width, sizes.width), (sizes.raw_height, sizes.height)
            check_size((max(across), max(down)), limits)
            yield raw
    except rawpy.LibRawTooBigError as error:
        raise PermanentError(Code.TOO_LARGE, f"LibRaw: {_text(error)}") from error
    except (
        rawpy.LibRawFileUnsupportedError,
        rawpy.LibRawNotImplementedError,
        rawpy.NotSupportedError,
    ) as error:
        raise PermanentError(
            Code.UNSUPPORTED, f"a kind of {format_of(data)} that LibRaw does not read, or damaged"
        ) from error
    except (rawpy.LibRawError, OSError, MemoryError) as error:
        raise truncated(format_of(data), _text(error)) from error


def _text(error: Exception) -> str:
    """LibRaw's message, which rawpy hands on as bytes."""
    (message,) = error.args or (error,)
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)
