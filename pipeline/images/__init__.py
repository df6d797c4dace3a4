"""Files to upright RGB pixels and back: the only user of the codecs.

The content says what a file is, never its name. Limits are judged from the header, and whatever a
codec raises becomes one of our errors in this package.
"""

from __future__ import annotations

from bgpipe.pipeline.images.color import color_pixel, from_srgb, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode, read_pixel_count
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.preview import thumbnail

__all__ = [
    "Limits",
    "color_pixel",
    "decode",
    "encode",
    "from_srgb",
    "read_pixel_count",
    "thumbnail",
    "to_viewed_srgb",
]
