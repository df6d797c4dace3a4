"""What a made subject is covered with: pieces of real pictures, in parts, with light on them."""

from __future__ import annotations

import cv2
import numpy as np
from backgrounds import gradient, region
from camera import jittered
from library import Layer, Library, Pixels
from outlines import outline

MADE_SIDE = 192  # pixels of a made subject, before it is placed
PARTED = 0.5  # share of made subjects with parts of other stuff
PLAIN = 0.15  # share of parts in plain colours
LIT = 0.6  # share of made subjects with a lit and a dark side


def made_subject(library: Library, rng: np.random.Generator) -> Layer:
    """A form that means nothing, covered with pieces of real pictures."""
    alpha = outline(library, MADE_SIDE, rng)
    rgb = stuff(library, MADE_SIDE, rng)
    while rng.random() < PARTED:
        part = outline(library, MADE_SIDE, rng)[..., None] / np.float32(255)
        shift = rng.integers(-MADE_SIDE // 2, MADE_SIDE // 2, 2)
        part = np.roll(part, tuple(shift), axis=(0, 1))
        rgb = (rgb * (1 - part) + stuff(library, MADE_SIDE, rng) * part).astype(np.uint8)
    if rng.random() < LIT:
        rgb = lit(rgb, alpha, rng)
    return Layer(rgb, alpha).trimmed() or Layer(rgb, alpha)


def stuff(library: Library, side: int, rng: np.random.Generator) -> Pixels:
    """A square piece of a picture, or a plain colour."""
    sources = [groups for groups in (library.photos, library.subjects, library.cutouts) if groups]
    if rng.random() < PLAIN:
        return gradient(library, side, rng)
    if library.backgrounds and rng.random() < 0.2:
        picture = library.backgrounds[rng.integers(len(library.backgrounds))]
    else:
        picture = sources[min(rng.geometric(0.5), len(sources)) - 1].draw(rng).rgb
    return jittered(region(picture, side, rng, 0.15), rng)


def lit(rgb: Pixels, alpha: Pixels, rng: np.random.Generator) -> Pixels:
    """Light from one side, and less of it towards the outline, as on a round body."""
    depth = cv2.distanceTransform((alpha > 127).astype(np.uint8), cv2.DIST_L2, 3)
    round_ = np.sqrt(depth / max(float(depth.max()), 1))
    side = rgb.shape[0]
    slope_y, slope_x = rng.normal(0, 0.3, 2)
    across = np.linspace(-1, 1, side, dtype=np.float32)
    light = 1 + slope_y * across[:, None] + slope_x * across[None, :]
    light += rng.uniform(0, 0.7) * (round_ - 0.6)
    return (rgb * light[..., None].clip(0.2, 1.8)).clip(0, 255).astype(np.uint8)
