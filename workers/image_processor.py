"""What subjects are put on: a colour, or an image that the job names.

What a worker makes of one file: a source's bytes in, a cutout's bytes out.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.color import from_srgb, parse_color, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode, read_pixel_count
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.matting.composite import composite
from bgpipe.pipeline.matting.cutout import cut_out, keep_own_alpha
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.matting.layout import count_canvas_pixels
from bgpipe.pipeline.matting.review import review
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Matting, Output, Recipe, ReviewFlag
from bgpipe.workers.memory_budget import MemoryBudget, bytes_of
from bgpipe.workers.watchdog import StageTimer

if TYPE_CHECKING:
    from bgpipe.config.settings import ReviewSettings
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
        return from_srgb(parse_color(colour), icc) if colour else None

    def _read(self, location: str, sha256: str) -> Pixels:
        folder, _, name = location.rpartition("/")
        data = self._open_store(folder).read(name, self._limits.max_bytes)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PermanentError(
                Code.MISSING, f"the background changed since the job was submitted: {location}"
            )
        picture = decode(data, self._limits)
        return to_viewed_srgb(picture.rgb, picture.icc)


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageCodec:
    """How files become pictures and cutouts files; a benchmark hands in others."""

    decode: Callable[[bytes, Limits, bool], DecodedImage] = decode
    encode: Callable[[Cutout, DecodedImage, Output, Mapping[str, str]], bytes] = encode
    measure: Callable[[bytes, Limits], int] = read_pixel_count


@dataclass(frozen=True, slots=True)
class EncodedCutout:
    """A cutout's file, and why somebody should look at it."""

    file: bytes
    flags: tuple[ReviewFlag, ...]


class ImageProcessor:
    """Makes cutouts; any number of threads may call at once, within the memory that there is."""

    def __init__(
        self,
        infer: Callable[[Recipe, Pixels], Matte],
        solve: Callable[[Matting, Sequence[Pixels]], list[Matte]],
        limits: Limits,
        review: ReviewSettings,
        codec: ImageCodec,
        grounds: BackgroundLoader,
        memory: MemoryBudget,
    ) -> None:
        """`infer` and `solve` wait for the device."""
        self._infer = infer
        self._solve = solve
        self._limits = limits
        self._review = review
        self._codec = codec
        self._grounds = grounds
        self._memory = memory

    def process(
        self, data: bytes, recipe: Recipe, text: Mapping[str, str], watch: StageTimer
    ) -> EncodedCutout:
        """The cutout of the file `data`, which says `text` about itself.

        Raises:
            ItemError: the source or the device is not as it should be.

        """
        with watch("measure"):
            pixels = max(
                self._codec.measure(data, self._limits), count_canvas_pixels(recipe.preset)
            )
        with ExitStack() as memory:
            with watch("room"):
                memory.enter_context(self._memory.claim(bytes_of(len(data), pixels)))
            with watch("decode"):
                picture = self._picture(data, recipe)
            matte = None if _is_kept(picture, recipe) else self._matte(picture, recipe, watch)
            sharp = self._with_edges(picture, matte, recipe, watch)
            with watch("refine"):
                cutout, flags = self._cutout(picture, matte, sharp, recipe)
            with watch("encode"):
                return EncodedCutout(
                    self._codec.encode(cutout, picture, recipe.output, text), flags
                )

    def _picture(self, data: bytes, recipe: Recipe) -> DecodedImage:
        picture = self._codec.decode(data, self._limits, recipe.output.depth == 16)
        if picture.frames > 1:
            log.info("first frame taken", extra={"fields": {"frames": picture.frames}})
        return replace(picture, alpha=None) if recipe.output.input_alpha == "ignore" else picture

    def _matte(self, picture: DecodedImage, recipe: Recipe, watch: StageTimer) -> Matte:
        # A first image waits for torch, which no stage's limit allows for.
        from bgpipe.pipeline.networks.preprocess import preprocess

        with watch("resize"):
            pixels = to_viewed_srgb(preprocess(picture.rgb, recipe.size), picture.icc)
        with watch("infer"):
            return self._infer(recipe, pixels)

    def _with_edges(
        self, picture: DecodedImage, matte: Matte | None, recipe: Recipe, watch: StageTimer
    ) -> Matte | None:
        """The matte at the picture's size with its edges solved, if the recipe asks for it."""
        matting = recipe.matting
        if matte is None or matting is None:
            return matte
        with watch("edges"):
            rgb = to_viewed_srgb(picture.rgb, picture.icc)
            alpha = solve_edges(
                rgb, matte.alpha, matting, lambda tiles: self._solve(matting, tiles)
            )
            return replace(matte, alpha=alpha)

    def _cutout(
        self, picture: DecodedImage, matte: Matte | None, sharp: Matte | None, recipe: Recipe
    ) -> tuple[Cutout, tuple[ReviewFlag, ...]]:
        """It is the network's `matte` that is reviewed, and the `sharp` one that cuts."""
        preset = recipe.preset
        cutout = cut_out(picture, sharp, preset) if sharp else keep_own_alpha(picture)
        flags = review(picture, matte, cutout, preset, self._review)
        ground = self._grounds.load(recipe, picture.icc)
        return composite(cutout, preset, ground, self._limits.max_pixels), flags


def _is_kept(picture: DecodedImage, recipe: Recipe) -> bool:
    """Whether the source is taken as the cutout that it is already."""
    return recipe.output.input_alpha == "keep" and picture.alpha is not None
