"""What a camera, a lens and a file format do to a picture. Pixels are uint8 RGB [H,W,3]."""

from __future__ import annotations

import cv2
import numpy as np
from library import Pixels
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def jittered(rgb: Pixels, rng: np.random.Generator, strength: float = 1.0) -> Pixels:
    """Another exposure, contrast, saturation and white balance; at times no colour at all."""
    gain, contrast, saturation = 1 + strength * rng.uniform(-0.35, 0.35, 3)
    balance = gain * (1 + strength * rng.uniform(-0.12, 0.12, 3))
    if rng.random() < 0.04 * strength:
        saturation = 0.0
    # Exposure, contrast and saturation are linear in RGB, so they are one 3x3 matrix.
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
    matrix = contrast * np.diag(balance) @ mix
    if rng.random() < 0.08 * strength:
        matrix = matrix[rng.permutation(3)]  # other hues: a red apple becomes a blue one
    offset = np.full((3, 1), (1 - contrast) * 118.0)
    return np.asarray(cv2.transform(rgb, np.hstack([matrix, offset]).astype(np.float32)), np.uint8)


def photographed(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """A random selection of vignette, blur or motion, low resolution, noise and JPEG, in that order."""
    if rng.random() < 0.10:
        rgb = vignetted(rgb, rng)
    if rng.random() < 0.12:
        rgb = _uint8(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.4)))
    elif rng.random() < 0.05:
        rgb = shaken(rgb, rng)
    if rng.random() < 0.15:
        rgb = coarse(rgb, rng.uniform(0.45, 0.9))
    if rng.random() < 0.30:
        rgb = noisy(rgb, rng)
    if rng.random() < 0.30:
        rgb = compressed(rgb, int(rng.integers(25, 92)))
    return rgb


def vignetted(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = rgb.shape[:2]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    fall = 1 - np.float32(rng.uniform(0.1, 0.3)) * (x * x + y * y)
    return (rgb * fall[..., None]).astype(np.uint8)


def shaken(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Motion of the camera: a straight line of one to four pixels to either side."""
    reach = int(rng.integers(1, 5))
    angle = rng.uniform(0, np.pi)
    end = np.array([np.cos(angle), np.sin(angle)]) * reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    first, last = (tuple(round(reach + x) for x in sign * end) for sign in (-1, 1))
    cv2.line(kernel, first, last, 1.0)
    return _uint8(cv2.filter2D(rgb, -1, kernel / kernel.sum()))


def coarse(rgb: Pixels, scale: float) -> Pixels:
    """As if taken at `scale` times the resolution and enlarged."""
    height, width = rgb.shape[:2]
    size = (max(int(width * scale), 1), max(int(height * scale), 1))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return _uint8(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def noisy(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    noise = rng.standard_normal(rgb.shape, np.float32) * np.float32(rng.uniform(1.5, 10))
    return _uint8(np.clip(rgb + noise, 0, 255))


def compressed(rgb: Pixels, quality: int) -> Pixels:
    _, data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def in_unit(values: Pixels) -> Floats:
    """0 to 255 as 0 to 1."""
    return np.divide(values, 255, dtype=np.float32)


def _uint8(image: cv2.typing.MatLike) -> Pixels:
    return image.astype(np.uint8, copy=False)
