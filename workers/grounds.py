"""What subjects are put on: a colour, or an image that the job names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import Limits, color_pixel, decode, from_srgb, to_viewed_srgb
from bgpipe.pipeline.storage import Store
from bgpipe.pipeline.types import Recipe

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

BACKDROPS_KEPT = 4


class BackgroundLoader:
    """Grounds of a worker's jobs; any number of threads may ask at once."""

    def __init__(self, open_store: Callable[[str], Store], limits: Limits) -> None:
        self._open_store = open_store
        self._limits = limits
        self._backdrop: Callable[[str, str], Pixels] = lru_cache(BACKDROPS_KEPT)(self._read)

    def load(self, recipe: Recipe, icc: bytes | None) -> Pixels | None:
        """The ground [h, w, 3] in the colours of the profile `icc`; None where there is to be none.

        Raises:
            PermanentError: the image is not there, cannot be read, or is no longer the same.
            TransientError: the storage failed.

        """
        output = recipe.output
        if output.backdrop:
            return from_srgb(self._backdrop(output.backdrop, output.backdrop_sha256), icc)
        colour = recipe.preset.background or ("white" if output.is_opaque else "")
        return from_srgb(color_pixel(colour), icc) if colour else None

    def _read(self, location: str, sha256: str) -> Pixels:
        folder, _, name = location.rpartition("/")
        data = self._open_store(folder).read(name, self._limits.max_bytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PermanentError(
                Code.MISSING, f"the background changed since the job was submitted: {location}"
            )
        picture = decode(data, self._limits)
        return to_viewed_srgb(picture.rgb, picture.icc)
