"""The colour of a soft edge without the background that shines through it.

Blur fusion: M. Forte, Approximate Fast Foreground Colour Estimation, ICIP 2021. An image is
I = aF + (1 - a)B; F and B start as means of I around a pixel, weighted by a and 1 - a, and what the
equation still lacks goes to F. Two passes, the second over a small neighbourhood.

Both passes run on a reduced copy, since means vary slowly; the equation itself is then solved with
the full-size pixels, and only where it is wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from bgpipe.pipeline.matting.resample import sample

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.matting.resample import Positions
    from bgpipe.pipeline.types import Pixels, Plane

    Colours = npt.NDArray[np.float32]
    """float32 [..., 3] in [0, 255]."""
    Means = tuple[Colours, Colours]
    """Of the foreground and of the background."""

REDUCED_SIDE = 1024
"""The longer side of the copy that the means are taken on."""
KERNELS = (90, 6)
"""Sides of the neighbourhoods of the two passes, in pixels of the full-size image."""
BLOCK = 1 << 20
"""Pixels solved at once: in float they take thirty times their room."""

EPSILON = 1e-5


def estimate_foreground(rgb: Pixels, alpha: Plane, pixels: Positions) -> Pixels:
    """The colours [N, 3] of the given pixels; `alpha` is how the picture itself was mixed."""
    foreground, background = _means(rgb, alpha)
    estimated = np.empty((pixels.size, 3), np.uint8)
    for start in range(0, pixels.size, BLOCK):
        block = pixels[start : start + BLOCK]
        colours = _corrected(
            sample(foreground, block, alpha.shape),
            sample(background, block, alpha.shape),
            alpha.reshape(-1, 1)[block],
            rgb.reshape(-1, 3)[block].astype(np.float32),
        )
        estimated[start : start + BLOCK] = np.rint(colours)
    return estimated


def _means(rgb: Pixels, alpha: Plane) -> Means:
    """The second pass's means of foreground and background, on the reduced copy."""
    scale = min(1.0, REDUCED_SIDE / max(alpha.shape))
    image, a = _shrunk(rgb, scale), _shrunk(alpha, scale)[..., None]
    large, small = (_kernel(side, scale) for side in KERNELS)
    nothing = np.zeros_like(image), np.zeros_like(image)
    far = _weighted_means(image, image, a, large, instead=nothing)
    return _weighted_means(_corrected(*far, a, image), far[1], a, small, instead=far)


def _shrunk(pixels: Pixels | Plane, scale: float) -> Colours:
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    shrunk = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.float32)


def _kernel(side: int, scale: float) -> int:
    """The published side at full size; odd on a reduced copy, where half a pixel's shift would show."""
    return side if scale == 1 else 2 * round((side * scale - 1) / 2) + 1


def _weighted_means(
    foreground: Colours, background: Colours, a: Plane, kernel: int, *, instead: Means
) -> Means:
    """Means over the kernel; those of `instead` where it holds no foreground, or no background."""
    share = _box(a, kernel)[..., None]
    return (
        (_box(foreground * a, kernel) + EPSILON * instead[0]) / (share + EPSILON),
        (_box(background * (1 - a), kernel) + EPSILON * instead[1]) / (1 - share + EPSILON),
    )


def _corrected(foreground: Colours, background: Colours, a: Plane, image: Colours) -> Colours:
    """Give the foreground what the compositing equation lacks."""
    lacking = image - a * foreground - (1 - a) * background
    return np.asarray(np.clip(foreground + a * lacking, 0, 255), np.float32)


def _box(values: Colours, kernel: int) -> Colours:
    return np.asarray(cv2.blur(values, (kernel, kernel)), np.float32)
