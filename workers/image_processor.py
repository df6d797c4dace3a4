"""Makes the bytes of a cutout from the bytes of its source."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

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
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Matting, Recipe, ReviewFlag
from bgpipe.workers.memory_budget import MemoryBudget
from bgpipe.workers.watchdog import StageTimer

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.types import Pixels

BACKDROPS_CACHED = 4

log = logging.getLogger(__name__)


class Inference(Protocol):
    """The networks, as Batcher has them; both methods block until the device has answered."""

    def infer(self, recipe: Recipe, pixels: Pixels) -> Matte: ...

    def infer_edges(self, matting: Matting, tiles: Sequence[Pixels]) -> list[Matte]: ...


class ImageCodec:
    """Conversion between files and pixels; benchmarks override it."""

    measure = staticmethod(read_pixel_count)
    decode = staticmethod(decode)
    encode = staticmethod(encode)


@dataclass(frozen=True, slots=True)
class EncodedCutout:
    data: bytes
    flags: tuple[ReviewFlag, ...]


class BackgroundLoader:
    """Backgrounds that recipes name: a color or an image. Threads may share it."""

    def __init__(self, stores: StoreFactory, limits: Limits) -> None:
        self._stores = stores
        self._limits = limits
        self._backdrop: Callable[[str, str], Pixels] = lru_cache(BACKDROPS_CACHED)(self._read)

    def load(self, recipe: Recipe, icc: bytes | None) -> Pixels | None:
        """Return the background [h, w, 3] in the colors of the profile `icc`, or None.

        Raises:
            PermanentError: the image is missing, cannot be read or has changed.
            TransientError: the storage failed.

        """
        output = recipe.output
        if output.backdrop:
            return from_srgb(self._backdrop(output.backdrop, output.backdrop_sha256), icc)
        color = recipe.preset.background or ("white" if output.is_opaque else "")
        return from_srgb(parse_color(color), icc) if color else None

    def _read(self, location: str, sha256: str) -> Pixels:
        folder, _, name = location.rpartition("/")
        data = self._stores.open(folder).read(name, self._limits.max_bytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PermanentError(
                Code.MISSING, f"the background changed since the job was submitted: {location}"
            )
        image = decode(data, self._limits)
        return to_viewed_srgb(image.rgb, image.icc)


class ImageProcessor:
    """Makes cutouts within a memory budget. Threads may share it."""

    def __init__(
        self,
        inference: Inference,
        backgrounds: BackgroundLoader,
        budget: MemoryBudget,
        settings: Settings,
        codec: ImageCodec | None = None,
    ) -> None:
        self._inference = inference
        self._backgrounds = backgrounds
        self._budget = budget
        self._limits = Limits.from_settings(settings.images)
        self._review = settings.review
        self._codec = codec or ImageCodec()

    def process(
        self, data: bytes, recipe: Recipe, text: Mapping[str, str], timer: StageTimer
    ) -> EncodedCutout:
        """Return the cutout of the file `data`; `text` is written into it.

        Raises:
            ItemError: the source, the background or the device failed.

        """
        with timer("measure"):
            pixels = max(
                self._codec.measure(data, self._limits), count_canvas_pixels(recipe.preset)
            )
        with ExitStack() as memory:
            with timer("room"):
                memory.enter_context(self._budget.claim(estimate_memory(len(data), pixels)))
            with timer("decode"):
                image = self._codec.decode(data, self._limits, recipe.output.depth == 16)
            if image.frames > 1:
                log.info("first frame taken", extra={"fields": {"frames": image.frames}})
            if recipe.output.input_alpha == "ignore":
                image = replace(image, alpha=None)
            keeps_alpha = recipe.output.input_alpha == "keep" and image.alpha is not None
            matte = None if keeps_alpha else self._matte(image, recipe, timer)
            refined = self._with_edges(image, matte, recipe, timer)
            with timer("refine"):
                cutout, flags = self._cut_out(image, matte, refined, recipe)
            with timer("encode"):
                return EncodedCutout(self._codec.encode(cutout, image, recipe.output, text), flags)

    def _matte(self, image: DecodedImage, recipe: Recipe, timer: StageTimer) -> Matte:
        # Imports torch, which the first image waits for outside of any stage's limit.
        from bgpipe.pipeline.networks.preprocess import preprocess

        with timer("resize"):
            pixels = to_viewed_srgb(preprocess(image.rgb, recipe.size), image.icc)
        with timer("infer"):
            return self._inference.infer(recipe, pixels)

    def _with_edges(
        self, image: DecodedImage, matte: Matte | None, recipe: Recipe, timer: StageTimer
    ) -> Matte | None:
        """Return the matte in the image's size with solved edges, if the recipe has a `matting`."""
        matting = recipe.matting
        if matte is None or matting is None:
            return matte
        with timer("edges"):
            rgb = to_viewed_srgb(image.rgb, image.icc)
            infer_edges = partial(self._inference.infer_edges, matting)
            return replace(matte, alpha=solve_edges(rgb, matte.alpha, matting, infer_edges))

    def _cut_out(
        self, image: DecodedImage, matte: Matte | None, refined: Matte | None, recipe: Recipe
    ) -> tuple[Cutout, tuple[ReviewFlag, ...]]:
        """Cut out with the `refined` matte, but review the network's own `matte`."""
        preset = recipe.preset
        cutout = cut_out(image, refined, preset) if refined else keep_own_alpha(image)
        flags = review(image, matte, cutout, preset, self._review)
        background = self._backgrounds.load(recipe, image.icc)
        return composite(cutout, preset, background, self._limits.max_pixels), flags
