"""Makes the bytes of a cutout from the bytes of its source."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.color import from_srgb, parse_color, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode, read_pixel_count
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits, estimate_memory
from bgpipe.pipeline.matting.composite import composite, count_canvas_pixels
from bgpipe.pipeline.matting.cutout import cut_out, keep_own_alpha
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.matting.review import review
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import DecodedImage, Matte, Recipe, ReviewFlag
from bgpipe.workers.budget import Budget
from bgpipe.workers.watchdog import StageTimer

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.types import Pixels
    from bgpipe.workers.batcher import Batcher

BACKDROPS_CACHED = 4

log = logging.getLogger(__name__)


class ImageCodec:
    """Conversion between files and pixels; benchmarks override it."""

    measure = staticmethod(read_pixel_count)
    decode = staticmethod(decode)
    encode = staticmethod(encode)


class ImageProcessor:
    """Makes cutouts within a budget of bytes, on backgrounds of `stores`. Threads may share it."""

    def __init__(
        self,
        inference: Batcher,
        stores: StoreFactory,
        memory: Budget,
        settings: Settings,
        codec: ImageCodec | None = None,
    ) -> None:
        self._inference = inference
        self._stores = stores
        self._memory = memory
        self._limits = Limits.from_settings(settings.images)
        self._review = settings.review
        self._codec = codec or ImageCodec()
        read_cached: Callable[[str, str], Pixels] = lru_cache(BACKDROPS_CACHED)(self._read_backdrop)
        self._backdrop = read_cached

    def process(
        self, data: bytes, recipe: Recipe, text: Mapping[str, str], timer: StageTimer
    ) -> tuple[bytes, tuple[ReviewFlag, ...]]:
        """Return the cutout of the file `data`, with `text` written into it, and its flags.

        Raises ItemError if the source, the background or the device failed.
        """
        preset, output = recipe.preset, recipe.output
        with timer("measure"):
            pixels = max(self._codec.measure(data, self._limits), count_canvas_pixels(preset))
        with ExitStack() as held:
            with timer("room"):
                held.enter_context(self._memory.claim(estimate_memory(len(data), pixels)))
            with timer("decode"):
                image = self._codec.decode(data, self._limits, output.depth == 16)
            if image.frames > 1:
                log.info("first frame taken", extra={"fields": {"frames": image.frames}})
            if output.input_alpha == "ignore":
                image = replace(image, alpha=None)
            keeps_alpha = output.input_alpha == "keep" and image.alpha is not None
            matte = None if keeps_alpha else self._infer(image, recipe, timer)
            refined = matte and self._solve_edges(image, matte, recipe, timer)
            with timer("refine"):
                cutout = cut_out(image, refined, preset) if refined else keep_own_alpha(image)
                flags = review(image, matte, cutout, preset, self._review)
                background = self._load_background(recipe, image.icc)
                cutout = composite(cutout, preset, background, self._limits.max_pixels)
                del background  # not held while others wait for memory
            with timer("encode"):
                return self._codec.encode(cutout, image, output, text), flags

    def _infer(self, image: DecodedImage, recipe: Recipe, timer: StageTimer) -> Matte:
        # Imports torch, which the first image waits for outside of any stage's limit.
        from bgpipe.pipeline.networks.preprocess import preprocess

        with timer("resize"):
            pixels = to_viewed_srgb(preprocess(image.rgb, recipe.size), image.icc)
        with timer("infer"):
            return self._inference.infer(recipe, [pixels])[0]

    def _solve_edges(
        self, image: DecodedImage, matte: Matte, recipe: Recipe, timer: StageTimer
    ) -> Matte:
        """Return the matte in the image's size with solved edges, if the recipe has a `matting`."""
        if recipe.matting is None:
            return matte
        with timer("edges"):
            rgb = to_viewed_srgb(image.rgb, image.icc)
            infer = partial(self._inference.infer, recipe.matting)
            return replace(matte, alpha=solve_edges(rgb, matte.alpha, recipe.matting, infer))

    def _load_background(self, recipe: Recipe, icc: bytes | None) -> Pixels | None:
        """Return the background [h, w, 3] in the colors of the profile `icc`, or None."""
        output = recipe.output
        if output.backdrop:
            return from_srgb(self._backdrop(output.backdrop, output.backdrop_sha256), icc)
        color = recipe.preset.background or ("white" if output.is_opaque else "")
        return from_srgb(parse_color(color), icc) if color else None

    def _read_backdrop(self, location: str, sha256: str) -> Pixels:
        folder, _, name = location.rpartition("/")
        data = self._stores.open(folder).read(name, self._limits.max_bytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            changed = f"the background changed since the job was submitted: {location}"
            raise PermanentError(Code.MISSING, changed)
        image = decode(data, self._limits)
        return to_viewed_srgb(image.rgb, image.icc)
