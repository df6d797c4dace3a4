"""Augmentations by camera, lens and file format. Pixels are uint8 RGB [H,W,3]."""

from __future__ import annotations

import cv2
import numpy as np
from library import Pixels
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LUMA = (0.299, 0.587, 0.114)


def jittered(rgb: Pixels, rng: np.random.Generator, strength: float = 1.0) -> Pixels:
    """Change exposure, contrast, saturation and white balance; some samples become grey."""
    gain, contrast, saturation = 1 + strength * rng.uniform(-0.35, 0.35, 3)
    balance = gain * (1 + strength * rng.uniform(-0.12, 0.12, 3))
    if rng.random() < 0.06 * strength:
        saturation = 0.0
    # Exposure, contrast and saturation are linear in RGB, so they are one 3x3 matrix.
    mix = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
    matrix = contrast * np.diag(balance) @ mix
    offset = np.full((3, 1), (1 - contrast) * 118.0)
    return np.asarray(cv2.transform(rgb, np.hstack([matrix, offset]).astype(np.float32)), np.uint8)


def photographed(rgb: Pixels, rng: np.random.Generator) -> Pixels:
    """Apply a random selection of blur, low resolution, noise and JPEG, in that order."""
    size = rgb.shape[1::-1]
    if rng.random() < 0.12:
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.6)), np.uint8)
    if rng.random() < 0.12:
        scale = rng.uniform(0.45, 0.9)
        small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        rgb = np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < 0.20:
        noise = rng.standard_normal(rgb.shape, np.float32) * np.float32(rng.uniform(1.5, 10))
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.30:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 92))]
        coded = cv2.imencode(".jpg", rgb, quality)[1]
        rgb = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return rgb


def in_unit(values: Pixels) -> Floats:
    """Scale 0..255 to 0..1."""
    return np.divide(values, 255, dtype=np.float32)
