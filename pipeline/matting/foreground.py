"""The color of a soft edge without the background that shines through it.

Blur fusion: M. Forte, Approximate Fast Foreground Colour Estimation, ICIP 2021. An image is
I = aF + (1 - a)B; F and B start as means of I around a pixel, weighted by a and 1 - a, and the rest
of the equation is given to F. Two passes, the second over a small neighborhood.

Both passes run on a reduced copy, since means vary slowly; the equation itself is then solved with
the full-size pixels, and only for those requested.
"""

from __future__ import annotations

import cv2
import numpy as np

from bgpipe.pipeline.matting.resample import Positions, sample
from bgpipe.pipeline.types import Floats, Pixels, Plane

Means = tuple[Floats, Floats]
"""Of the foreground and of the background, [h, w, 3] in [0, 255]."""

REDUCED_SIDE = 1024  # longer side of the copy on which means are taken
KERNELS = (90, 6)  # sides of the neighborhoods of the two passes, in pixels of the full-size image
BLOCK = 1 << 20  # pixels solved at once: in float they take thirty times their memory

EPSILON = 1e-5


def estimate_foreground(rgb: Pixels, alpha: Plane, pixels: Positions) -> Pixels:
    """Return the foreground's colors [N, 3] at `pixels`; `alpha` is the mixture in the image."""
    foreground, background = _compute_means(rgb, alpha)
    estimated = np.empty((pixels.size, 3), np.uint8)
    for start in range(0, pixels.size, BLOCK):
        block = pixels[start : start + BLOCK]
        colors = _correct(
            sample(foreground, block, alpha.shape),
            sample(background, block, alpha.shape),
            alpha.reshape(-1, 1)[block],
            rgb.reshape(-1, 3)[block].astype(np.float32),
        )
        estimated[start : start + BLOCK] = np.rint(colors)
    return estimated


def _compute_means(rgb: Pixels, alpha: Plane) -> Means:
    """Return the means of both after the second pass, on the reduced copy."""
    scale = min(1.0, REDUCED_SIDE / max(alpha.shape))
    image, a = _shrink(rgb, scale), _shrink(alpha, scale)[..., None]
    large, small = (  # odd on a reduced copy, where half a pixel shows
        side if scale == 1 else 2 * round((side * scale - 1) / 2) + 1 for side in KERNELS
    )
    nothing = np.zeros_like(image), np.zeros_like(image)
    far = _weighted_means(image, image, a, large, fallback=nothing)
    return _weighted_means(_correct(*far, a, image), far[1], a, small, fallback=far)


def _shrink(pixels: Pixels | Plane, scale: float) -> Floats:
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    shrunk = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.float32)


def _weighted_means(
    foreground: Floats, background: Floats, a: Plane, kernel: int, *, fallback: Means
) -> Means:
    """Return means over the kernel; those of `fallback` where either has no weight in it."""
    share = _box(a, kernel)[..., None]
    return (
        (_box(foreground * a, kernel) + EPSILON * fallback[0]) / (share + EPSILON),
        (_box(background * (1 - a), kernel) + EPSILON * fallback[1]) / (1 - share + EPSILON),
    )


def _correct(foreground: Floats, background: Floats, a: Plane, image: Floats) -> Floats:
    """Give the foreground the residual of the compositing equation."""
    residual = image - a * foreground - (1 - a) * background
    return np.asarray(np.clip(foreground + a * residual, 0, 255), np.float32)


def _box(values: Floats, kernel: int) -> Floats:
    return np.asarray(cv2.blur(values, (kernel, kernel)), np.float32)
