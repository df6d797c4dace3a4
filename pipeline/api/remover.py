"""One image in memory becomes a cutout, in this process and without a queue.

The same steps as a worker's, so that the pixels are those of a job. Torch is imported when the first
image comes.
"""

from __future__ import annotations

import os
import threading
import warnings
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
from PIL import Image, ImageOps

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.images.color import from_srgb, parse_color, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits, check_size
from bgpipe.pipeline.matting.composite import composite
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.matting.edges import solve_edges
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning import recipe
from bgpipe.pipeline.session import read_settings
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Output, Preset, Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgpipe.pipeline.inference.engine import BiRefNetEngine
    from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine
    from bgpipe.pipeline.types import Pixels

    Photo = TypeVar("Photo", Image.Image, Pixels, bytes)

DEEP = ("I", "F")
"""What the modes of Pillow begin with whose samples have more than 8 bits."""

_REMOVERS = 4
"""How many networks `remove` keeps: each holds up to 1 GB of memory."""
_choosing = threading.Lock()


def remove(image: Photo, *, model: str = "", preset: str = "", device: str = "") -> Photo:
    """Remove the background; the cutout is of the same kind as the image.

    A Pillow image and an array are as of `BackgroundRemover`. Bytes are an image file and become
    a PNG file. Weights and settings are loaded at the first call with the same `model`, `preset`
    and `device`, and kept. Threads may call it.

    Raises:
        UsageError: a name, the configuration or the kind of the image is wrong.
        ModelUnavailable: the weights are not on this machine and cannot be pulled.
        ItemError: the image is too large or damaged, or the device failed.

    """
    with _choosing:  # two threads at once would load the same network twice
        remover = _remover(model, preset, device)
    return remover.file(image) if isinstance(image, bytes) else remover(image)


@lru_cache(maxsize=_REMOVERS)
def _remover(model: str, preset: str, device: str) -> BackgroundRemover:
    return BackgroundRemover(model, preset, device=device)


class BackgroundRemover:
    """Makes cutouts of single images. Threads may share it; they take turns at the device.

    Example:
        remover = BackgroundRemover(model="birefnet-nano", preset="portraits")
        cutout = remover(Image.open("photo.jpg"))    # an image of Pillow in, one in RGBA out
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
        """Choose the weights (a name, or a path to safetensors) and the preset; empty: the settings'.

        `changes` are single values of the preset. `device` is cpu or cuda; empty: a GPU if there is
        one. Weights that are not on this machine are pulled.

        Raises:
            UsageError: a name, a value or the configuration is wrong.
            ModelUnavailable: the weights are not here and cannot be pulled.

        """
        self._settings = settings or read_settings()
        named = preset or self._settings.refine.preset
        base = named if isinstance(named, Preset) else recipe.preset_named(self._settings, named)
        name = model or self._settings.model.name
        self._weights, degraded = recipe.choose_model(self._settings, name)
        if degraded:
            warnings.warn(
                f"{registry.DEFAULT} is not available: using {registry.TRIAL}, whose mattes are clearly "
                f"worse: bgpipe models pull {registry.DEFAULT}",
                stacklevel=2,
            )
        self._edges = recipe.choose_edges(self._settings, self._settings.matting.model)
        self._device = device
        self._limits = Limits.from_settings(self._settings.images)
        self._turn = threading.Lock()
        self.recipe = Recipe(
            self._weights.name,
            self._weights.sha256,
            self._weights.size,
            recipe.apply_changes(base, changes or {}),
            matting=recipe.matting_with(self._settings, self._edges) if self._edges else None,
        )
        """Everything that determines the pixels."""

    @overload
    def __call__(self, image: Image.Image) -> Image.Image: ...

    @overload
    def __call__(self, image: Pixels) -> Pixels: ...

    def __call__(self, image: Image.Image | Pixels) -> Image.Image | Pixels:
        """The cutout of an image, as what the image was.

        An array is uint8 [H, W, 3 or 4], RGB or RGBA in sRGB, and becomes RGBA [H, W, 4]. An image of
        Pillow is turned upright and becomes one in RGBA that keeps its profile. An alpha that is
        there already is multiplied with the new one.

        Raises:
            UsageError: it is no such array or image.
            ItemError: it is too large, or the device failed.

        """
        if isinstance(image, Image.Image):
            picture = _picture_of_image(image)
            cutout = Image.fromarray(self._cutout(picture).rgba)
            if picture.icc:
                cutout.info["icc_profile"] = picture.icc
            return cutout
        return self._cutout(_picture_of_array(image)).rgba

    def file(self, data: bytes, output: Output | None = None) -> bytes:
        """The file of an image becomes the file of its cutout, as a worker writes it: by default a PNG.

        Raises:
            ItemError: as of a job's image.

        """
        output = output or Output()
        picture = decode(data, self._limits, output.depth == 16)
        text = {"bgpipe:recipe": self.recipe.text}
        return encode(self._cutout(picture), picture, output, text)

    def _cutout(self, picture: DecodedImage) -> Cutout:
        height, width, _ = picture.rgb.shape
        check_size((width, height), self._limits)
        preset = self.recipe.preset
        with self._turn:
            matte = self._matte(picture)
        colour = preset.background
        ground = from_srgb(parse_color(colour), picture.icc) if colour else None
        return composite(cut_out(picture, matte, preset), preset, ground, self._limits.max_pixels)

    def _matte(self, picture: DecodedImage) -> Matte:
        from bgpipe.pipeline.networks.preprocess import preprocess

        pixels = to_viewed_srgb(preprocess(picture.rgb, self.recipe.size), picture.icc)
        (matte,) = self._engine.infer([pixels])
        matting = self.recipe.matting
        if matting is None or self._edge_engine is None:
            return matte
        rgb = to_viewed_srgb(picture.rgb, picture.icc)
        return Matte(solve_edges(rgb, matte.alpha, matting, self._edge_engine.infer))

    @cached_property
    def _engine(self) -> BiRefNetEngine:
        from bgpipe.pipeline.inference.engine import BiRefNetEngine

        return BiRefNetEngine(self._weights, self._chosen_device, batch=1, threads=self._threads)

    @cached_property
    def _edge_engine(self) -> VitMatteEngine | None:
        if self._edges is None:
            return None
        from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine

        return VitMatteEngine(self._edges, self._chosen_device, batch=1, threads=self._threads)

    @cached_property
    def _chosen_device(self) -> str:
        import torch

        return self._device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def _threads(self) -> int:
        return self._settings.worker.cpu_threads or os.cpu_count() or 1


def _picture_of_array(array: Pixels) -> DecodedImage:
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


def _picture_of_image(image: Image.Image) -> DecodedImage:
    if image.mode.startswith(DEEP):
        raise UsageError(
            f"an image of mode {image.mode} has more than 8 bits: give its file to file()"
        )
    upright = ImageOps.exif_transpose(image)
    has_alpha = upright.has_transparency_data
    icc = upright.info.get("icc_profile") if image.mode in {"RGB", "RGBA", "P"} else None
    picture = _picture_of_array(np.asarray(upright.convert("RGBA" if has_alpha else "RGB")))
    return DecodedImage(picture.rgb, picture.alpha, icc)
