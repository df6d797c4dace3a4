"""A picture and its matte become a cutout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bgpipe.config.presets import Enhancement
from bgpipe.pipeline.matting.foreground import estimate_foreground
from bgpipe.pipeline.matting.guided_filter import guided_filter
from bgpipe.pipeline.matting.refine import refine
from bgpipe.pipeline.matting.resample import resize
from bgpipe.pipeline.types import Cutout

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import DecodedImage, Matte, Pixels, Plane, Preset

    Alpha = npt.NDArray[np.uint8]


def cut_out(picture: DecodedImage, matte: Matte, preset: Preset) -> Cutout:
    """The picture with the refined matte, times its own alpha, as straight alpha.

    Opaque pixels keep the source's colour bit for bit, transparent ones have none. Soft pixels get
    the estimated colour of the foreground if the preset asks for it; a picture that brings an alpha
    of its own keeps its colours, since they are free of a background already.
    """
    height, width, _ = picture.rgb.shape
    full = resize(matte.alpha, height, width)
    if preset.guided:
        full = guided_filter(matte.alpha, full, picture.rgb)
    refined = refine(full, preset)
    own = picture.alpha
    alpha = _quantised(refined if own is None else _scaled(refined, own))
    rgba = _to_rgba(picture.rgb, alpha)
    if preset.foreground and own is None:
        soft = np.flatnonzero((alpha > 0) & (alpha < 255))
        if soft.size:
            # A softer or harder finish does not change how subject and background were mixed.
            mixture = refine(full, _unrefined(preset))
            rgba.reshape(-1, 4)[soft, :3] = estimate_foreground(picture.rgb, mixture, soft)
    return Cutout(rgba)


def keep_own_alpha(picture: DecodedImage) -> Cutout:
    """The picture as the cutout that its own alpha makes of it; opaque if it has none."""
    own = picture.alpha
    return Cutout(
        _to_rgba(picture.rgb, np.full(picture.rgb.shape[:2], 255, np.uint8) if own is None else own)
    )


def _unrefined(preset: Preset) -> Preset:
    """The preset without what only makes an edge softer or harder."""
    turned = tuple(Enhancement(invert=step.invert) for step in preset.enhance)
    return replace(preset, contrast=1.0, blur=0.0, smooth=False, threshold=False, enhance=turned)


def _scaled(alpha: Plane, own: Alpha) -> Plane:
    return np.asarray(alpha * (own / np.float32(255)), np.float32)


def _quantised(alpha: Plane) -> Alpha:
    """To the nearest of 256 levels."""
    return np.asarray(cv2.convertScaleAbs(alpha, alpha=255), np.uint8)


def _to_rgba(rgb: Pixels, alpha: Alpha) -> Pixels:
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    cv2.mixChannels([rgb, alpha], [rgba], [0, 0, 1, 1, 2, 2, 3, 3])
    np.copyto(rgba.view(np.uint32)[..., 0], 0, where=alpha == 0)
    return rgba
