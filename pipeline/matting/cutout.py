"""From an image and its matte to a cutout."""

from dataclasses import replace

import cv2
import numpy as np

from bgpipe.config.presets import Enhancement
from bgpipe.pipeline.matting.foreground import estimate_foreground
from bgpipe.pipeline.matting.guided_filter import guided_filter
from bgpipe.pipeline.matting.refine import refine
from bgpipe.pipeline.matting.resample import resize
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Pixels, Preset


def cut_out(image: DecodedImage, matte: Matte, preset: Preset) -> Cutout:
    """Return the image with the refined matte, times its own alpha, as straight alpha.

    Opaque pixels keep the source's color bit for bit, transparent ones have none. Soft pixels get
    the estimated color of the foreground if the preset asks for it, unless the image has an alpha
    of its own: its colors are free of a background already.
    """
    height, width, _ = image.rgb.shape
    full = resize(matte.alpha, height, width)
    if preset.guided:
        full = guided_filter(matte.alpha, full, image.rgb)
    refined, own = refine(full, preset), image.alpha
    if own is not None:
        refined = np.asarray(refined * (own / np.float32(255)), np.float32)
    alpha = np.asarray(cv2.convertScaleAbs(refined, alpha=255), np.uint8)  # the nearest level
    rgba = _to_rgba(image.rgb, alpha)
    if preset.foreground and own is None:
        soft = np.flatnonzero((alpha > 0) & (alpha < 255))
        if soft.size:
            # A softer or harder finish does not change how subject and background were mixed.
            inversions = tuple(Enhancement(invert=step.invert) for step in preset.enhance)
            shape = replace(preset, contrast=1.0, blur=0.0, smooth=False, threshold=False)
            mixture = refine(full, replace(shape, enhance=inversions))
            rgba.reshape(-1, 4)[soft, :3] = estimate_foreground(image.rgb, mixture, soft)
    return Cutout(rgba)


def keep_own_alpha(image: DecodedImage) -> Cutout:
    """Return the cutout that the image's own alpha makes; opaque if it has none."""
    own = image.alpha
    alpha = np.full(image.rgb.shape[:2], 255, np.uint8) if own is None else own
    return Cutout(_to_rgba(image.rgb, alpha))


def _to_rgba(rgb: Pixels, alpha: Pixels) -> Pixels:
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    cv2.mixChannels([rgb, alpha], [rgba], [0, 0, 1, 1, 2, 2, 3, 3])
    np.copyto(rgba.view(np.uint32)[..., 0], 0, where=alpha == 0)
    return rgba
