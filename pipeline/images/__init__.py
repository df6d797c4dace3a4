"""Files to upright RGB pixels and back: the only user of the codecs.

The content says what a file is, never its name. Limits are judged from the header, and whatever a
codec raises becomes one of our errors in this package.
"""

from __future__ import annotations

from bgpipe.pipeline.images.colour import one_pixel, seen_as_srgb, stored_with
from bgpipe.pipeline.images.decode import decode, measure
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.thumbnail import thumbnail

__all__ = [
    "Limits",
    "decode",
    "encode",
    "measure",
    "one_pixel",
    "seen_as_srgb",
    "stored_with",
    "thumbnail",
]
