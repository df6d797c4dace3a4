"""Makes the files of an image's outputs from the bytes of its source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from bgpipe.config.presets import without_finish
from bgpipe.pipeline.errors import Code, ItemError, PermanentError, Refused
from bgpipe.pipeline.images.color import from_srgb, parse_color, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode, read_pixel_count
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits, estimate_memory
from bgpipe.pipeline.images.provenance import score_text
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.matting.composite import blur_photo, composite, count_canvas_pixels
from bgpipe.pipeline.matting.cutout import cut_out, keep_own_alpha
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.matting.review import Review, review
from bgpipe.pipeline.matting.score import expected_iou
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import DecodedImage, Matte, Recipe, ReviewFlag
from bgpipe.workers.budget import Budget
from bgpipe.workers.watchdog import StageTimer

if TYPE_CHECKING:
    from bgpipe.config.settings import ReviewSettings, Settings
    from bgpipe.pipeline.types import Cutout, Pixels, Preset
    from bgpipe.workers.batcher import Batcher

BACKDROPS_CACHED = 4

log = EventLogger(__name__)


class ImageCodec:
    """Conversion between files and pixels; benchmarks override it."""

    measure = staticmethod(read_pixel_count)
    decode = staticmethod(decode)
    encode = staticmethod(encode)


@dataclass(eq=False)
class ImageProcessor:
    """Makes cutouts within a budget of bytes, on backgrounds of `stores`. Threads may share it."""

    inference: Batcher
    stores: StoreFactory
    memory: Budget
    settings: Settings
    codec: ImageCodec = field(default_factory=ImageCodec)

    def __post_init__(self) -> None:
        self._limits = Limits.from_settings(self.settings.images)
        read_cached: Callable[[str, str], Pixels] = lru_cache(BACKDROPS_CACHED)(self._read_backdrop)
        self._backdrop = read_cached

    def process(
        self, data: bytes, identity: str, recipes: Sequence[Recipe], timer: StageTimer
    ) -> tuple[list[bytes | ItemError], Review]:
        """Return the file of each recipe for the image `data`, and the review of its cutouts.

        The networks run once for all recipes, which differ in preset and output at most. The error of
        one of them takes the place of its file. Each file holds its recipe, the source's `identity` and
        the score. Raises ItemError if the source or the device failed.
        """
        shared, depth = recipes[0], max(recipe.output.depth for recipe in recipes)
        with timer("measure"):
            canvas = max(count_canvas_pixels(recipe.preset) for recipe in recipes)
            pixels = max(self.codec.measure(data, self._limits), canvas)
        with ExitStack() as held:
            with timer("room"):
                held.enter_context(self.memory.claim(estimate_memory(len(data), pixels)))
            with timer("decode"):
                image = self.codec.decode(data, self._limits, depth == 16)
            if image.frames > 1:
                log.info("first frame taken", frames=image.frames)
            if shared.output.input_alpha == "ignore":
                image = replace(image, alpha=None)
            keeps_alpha = shared.output.input_alpha == "keep" and image.alpha is not None
            matte = None if keeps_alpha else self._infer(image, shared, timer)
            refined = matte and self._solve_edges(image, matte, shared, timer)
            with timer("refine"):
                score = expected_iou(matte) if matte else None
            cutouts = _CutoutMaker(image, matte, refined, self.settings.review)
            text = {"bgpipe:source": identity, **score_text(score)}
            files = [self._make_file(cutouts, recipe, text, timer) for recipe in recipes]
            return files, Review(tuple(flag for flag in ReviewFlag if flag in cutouts.flags), score)

    def _make_file(
        self, cutouts: _CutoutMaker, recipe: Recipe, text: Mapping[str, str], timer: StageTimer
    ) -> bytes | ItemError:
        image = cutouts.image
        try:
            with timer("refine"):
                cutout = cutouts.make(recipe.preset)
                background = self._load_background(recipe, image, cutout)
                outline = _color(recipe.preset.outline.partition(":")[2], image.icc)
                most = self._limits.max_pixels
                cutout = composite(cutout, recipe.preset, background, most, outline)
                del background  # not held while others wait for memory
            with timer("encode"):
                text = {"bgpipe:recipe": recipe.text, **text}
                return self.codec.encode(cutout, image, recipe.output, text)
        except Refused:
            raise
        except ItemError as error:
            return error

    def _infer(self, image: DecodedImage, recipe: Recipe, timer: StageTimer) -> Matte:
        # Imports torch, which the first image waits for outside of any stage's limit.
        from bgpipe.pipeline.networks.preprocess import preprocess

        with timer("resize"):
            pixels = to_viewed_srgb(preprocess(image.rgb, recipe.size), image.icc)
        with timer("infer"):
            return self.inference.infer(recipe, [pixels])[0]

    def _solve_edges(
        self, image: DecodedImage, matte: Matte, recipe: Recipe, timer: StageTimer
    ) -> Matte:
        """Return the matte in the image's size with solved edges, if the recipe has a `matting`."""
        if recipe.matting is None:
            return matte
        with timer("edges"):
            rgb = to_viewed_srgb(image.rgb, image.icc)
            infer = partial(self.inference.infer, recipe.matting)
            return replace(matte, alpha=solve_edges(rgb, matte.alpha, recipe.matting, infer))

    def _load_background(
        self, recipe: Recipe, image: DecodedImage, cutout: Cutout
    ) -> Pixels | None:
        """Return the background [h, w, 3] in the colors of the image's profile, or None."""
        preset, output = recipe.preset, recipe.output
        if output.backdrop:
            return from_srgb(self._backdrop(output.backdrop, output.backdrop_sha256), image.icc)
        blurred = blur_photo(image.rgb, cutout.rgba[..., 3], preset)
        if blurred is not None:
            return blurred
        return _color(preset.background or ("white" if output.is_opaque else ""), image.icc)

    def _read_backdrop(self, location: str, sha256: str) -> Pixels:
        folder, _, name = location.rpartition("/")
        data = self.stores.open(folder).read(name, self._limits.max_bytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            changed = f"the background changed since the job was submitted: {location}"
            raise PermanentError(Code.MISSING, changed)
        image = decode(data, self._limits)
        return to_viewed_srgb(image.rgb, image.icc)


@dataclass(slots=True)
class _CutoutMaker:
    """Makes the cutouts of one image; outputs in a row that differ in their finish alone share one."""

    image: DecodedImage
    matte: Matte | None
    refined: Matte | None
    settings: ReviewSettings
    flags: set[ReviewFlag] = field(default_factory=set)
    """Of all cutouts."""
    last: tuple[Preset, Cutout] | None = None

    def make(self, preset: Preset) -> Cutout:
        plain, image = without_finish(preset), self.image
        if self.last is None or self.last[0] != plain:
            self.last = None  # not held beside the next one
            cutout = cut_out(image, self.refined, plain) if self.refined else keep_own_alpha(image)
            self.flags.update(review(image, self.matte, cutout, plain, self.settings))
            self.last = plain, cutout
        return self.last[1]


def _color(color: str, icc: bytes | None) -> Pixels | None:
    """Return a color of sRGB [1, 1, 3] in the colors of the profile `icc`; None without one."""
    return from_srgb(parse_color(color), icc) if color else None
