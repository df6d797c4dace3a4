"""Whether a file may become a source at all, told from its header and its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpipe.pipeline.images.decode import read_pixel_count
from bgpipe.pipeline.images.formats import format_of, is_cut_short, truncated

if TYPE_CHECKING:
    from bgpipe.pipeline.images.limits import Limits


def validate_header(data: bytes, limits: Limits) -> str:
    """The name of the format of a file that looks whole; no pixel is decoded.

    Raises:
        PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.

    """
    read_pixel_count(data, limits)
    name = format_of(data)
    if name is None or is_cut_short(name, data):
        raise truncated(name, f"{len(data)} bytes are there")
    return name
