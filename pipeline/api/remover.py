"""Removes the background of single images in memory, in this process and without a queue.

The steps are those of a worker, so the pixels are those of a job. Torch is imported for the first
image.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image, ImageOps

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.images.color import from_srgb, parse_color, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.provenance import RECIPE, score_text
from bgpipe.pipeline.matting.composite import blur_photo, composite
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.matting.score import expected_iou
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning.recipe import build_recipe
from bgpipe.pipeline.storage.factory import StoreFactory, find_location
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Output, Preset

if TYPE_CHECKING:
    from bgpipe.pipeline.inference.engine import BiRefNetEngine
    from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine
    from bgpipe.pipeline.types import Pixels

    Photo = TypeVar("Photo", Image.Image, Pixels, bytes)
    Picture = TypeVar("Picture", Image.Image, Pixels)

_MAX_REMOVERS = 4
"""Networks that `remove` keeps; each holds up to 1 GB of memory."""
_remover_lock = threading.Lock()


def remove(image: Photo, *, model: str = "", preset: str = "", device: str = "") -> Photo:
    """Remove the background of an image; the cutout has the image's type.

    Pillow images, arrays and errors are those of `BackgroundRemover`. Bytes are an image file and
    become a PNG file. The first call with the same `model`, `preset` and `device` loads
    weights and settings, which are kept. Threads may call it.
    """
    with _remover_lock:  # two threads would load the same network twice
        remover = _cached_remover(model, preset, device=device)
    return remover.file(image) if isinstance(image, bytes) else remover(image)


class BackgroundRemover:
    """Makes cutouts of single images. Threads may share it; they take turns at the device.

    Example:
        remover = BackgroundRemover(model="birefnet-nano", preset="portraits")
        cutout = remover(Image.open("photo.jpg"))    # a Pillow image in, one in RGBA out
        rgba = remover(pixels)                       # an array uint8 [H, W, 3] in, [H, W, 4] out
    """

    def __init__(
        self,
        model: str = "",
        preset: str | Preset = "",
        *,
        changes: Mapping[str, object] | None = None,
        device: str = "",
        settings: Settings | None = None,
    ) -> None:
        """Choose weights (a name, or a path to safetensors) and preset; empty: those of the settings.

        `changes` are single values of the preset. `device` is cpu or cuda; empty: a GPU if available.
        Raises UsageError if a name, a value or the configuration is wrong, ModelUnavailable if the
        weights are not on this machine and cannot be pulled.
        """
        self._settings = settings or load_settings()
        built = build_recipe(self._settings, model=model, preset=preset, changes=changes)
        if built.is_degraded:
            warnings.warn(
                f"{registry.DEFAULT} is not available: using {registry.TRIAL}, whose mattes are clearly "
                f"worse: bgpipe models pull {registry.DEFAULT}",
                stacklevel=2,
            )
        self._weights, self._edge_weights = built.model, built.matting
        self._device = device
        self._limits = Limits.from_settings(self._settings.images)
        self._device_lock = threading.Lock()
        self.recipe = built.recipe
        """Everything that determines the pixels."""

    def __call__(self, image: Picture) -> Picture:
        """Return the cutout of an image, with the image's type.

        An array is uint8 [H, W, 3 or 4], RGB or RGBA in sRGB, and becomes RGBA [H, W, 4]. A Pillow
        image is rotated upright and becomes one in RGBA that keeps its color profile. An existing
        alpha is multiplied with the new one. Raises UsageError if it is not such an array or image,
        ItemError if it is too large, or the device failed.
        """
        if isinstance(image, Image.Image):
            decoded = _decode_pillow(image)
            cutout = Image.fromarray(self._cut_out(decoded).rgba)
            if decoded.icc:
                cutout.info["icc_profile"] = decoded.icc
            return cutout
        return self._cut_out(_decode_array(image)).rgba

    def file(self, data: bytes, output: Output | None = None) -> bytes:
        """Return the cutout of an image file as a worker writes it, by default a PNG file.

        Raises ItemError with the code that the image would have in a job.
        """
        return self._make_file(data, output or Output(), {})

    def from_location(self, location: str) -> bytes:
        """Return the cutout of the file at a path or s3:// URL, byte for byte as a job writes it.

        A job with the same recipe that finds it in its place takes it as done. Raises UsageError if the
        location is neither a path nor an s3:// URL, ItemError like `file`.
        """
        folder, _, key = find_location(location).rpartition("/")
        store = StoreFactory(self._settings.s3).open(folder or "/")
        before = store.head(key)
        data = store.read(key, self._settings.images.max_bytes)
        source = before.identity if before else ""
        return self._make_file(data, self.recipe.output, {"bgpipe:source": source})

    def _make_file(self, data: bytes, output: Output, metadata: Mapping[str, str]) -> bytes:
        image = decode(data, self._limits, output.depth == 16)
        matte, refined = self._infer_mattes(image)
        texts = {RECIPE: self.recipe.text, **metadata, **score_text(expected_iou(matte))}
        return encode(self._compose(image, refined), image, output, texts)

    def _cut_out(self, image: DecodedImage) -> Cutout:
        return self._compose(image, self._infer_mattes(image)[1])

    def _compose(self, image: DecodedImage, matte: Matte) -> Cutout:
        preset = self.recipe.preset
        cutout = cut_out(image, matte, preset)
        background = blur_photo(image.rgb, cutout.rgba[..., 3], preset)
        if background is None and preset.background:
            background = from_srgb(parse_color(preset.background), image.icc)
        outline = None
        if preset.outline:
            outline = from_srgb(parse_color(preset.outline.partition(":")[2]), image.icc)
        return composite(cutout, preset, background, self._limits.max_pixels, outline)

    def _infer_mattes(self, image: DecodedImage) -> tuple[Matte, Matte]:
        """Return the network's matte, and the one to use: with solved edges if the recipe has them."""
        from bgpipe.pipeline.networks.preprocess import preprocess

        height, width, _ = image.rgb.shape
        self._limits.check_size(width, height)
        with self._device_lock:
            pixels = to_viewed_srgb(preprocess(image.rgb, self.recipe.size), image.icc)
            engine, edge_engine = self._engines
            (matte,) = engine.infer([pixels])
            matting = self.recipe.matting
            if matting is None or edge_engine is None:
                return matte, matte
            rgb = to_viewed_srgb(image.rgb, image.icc)
            return matte, Matte(solve_edges(rgb, matte.alpha, matting, edge_engine.infer))

    @cached_property
    def _engines(self) -> tuple[BiRefNetEngine, VitMatteEngine | None]:
        import torch

        from bgpipe.pipeline.inference.engine import BiRefNetEngine

        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        threads = self._settings.worker.cpu_threads or os.cpu_count() or 1
        engine = BiRefNetEngine(self._weights, device, batch=1, threads=threads)
        if self._edge_weights is None:
            return engine, None
        from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine

        return engine, VitMatteEngine(self._edge_weights, device, batch=1, threads=threads)


_cached_remover = lru_cache(maxsize=_MAX_REMOVERS)(BackgroundRemover)


def _decode_array(array: Pixels) -> DecodedImage:
    if not isinstance(array, np.ndarray):
        raise UsageError(
            f"not an image or an array: {type(array).__name__}: open a path with PIL.Image.open"
        )
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in {3, 4}:
        raise UsageError(
            f"not an array uint8 [H, W, 3 or 4]: {array.dtype} {list(array.shape)}: convert it first"
        )
    if not array.size:
        raise UsageError(f"the array has no pixels: {list(array.shape)}")
    alpha = np.ascontiguousarray(array[..., 3]) if array.shape[2] == 4 else None
    return DecodedImage(np.ascontiguousarray(array[..., :3]), alpha)


def _decode_pillow(image: Image.Image) -> DecodedImage:
    if image.mode.startswith(("I", "F")):
        raise UsageError(f"more than 8 bits a sample: {image.mode}: pass its file to file()")
    upright = ImageOps.exif_transpose(image)
    has_alpha = upright.has_transparency_data
    icc = upright.info.get("icc_profile") if image.mode in {"RGB", "RGBA", "P"} else None
    decoded = _decode_array(np.asarray(upright.convert("RGBA" if has_alpha else "RGB")))
    return DecodedImage(decoded.rgb, decoded.alpha, icc)
