"""Backgrounds without a subject: real ones where there are any, and made ones between them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from camera import jittered
from library import Library, Pixels

Maker = Callable[[Library, int, np.random.Generator], Pixels]


def background(library: Library, size: int, rng: np.random.Generator) -> Pixels:
    """A square picture without a subject, uint8 [size,size,3], the same for the same `rng`."""
    makers = [(weight, maker) for weight, maker in MAKERS if _has_material(maker, library)]
    weights = np.array([weight for weight, _ in makers])
    maker = makers[rng.choice(len(makers), p=weights / weights.sum())][1]
    image = jittered(maker(library, size, rng), rng)
    if rng.random() < 0.25:  # out of focus, as behind many subjects
        image = _blurred(image, rng.uniform(0.005, 0.03) * size)
    return image


def region(image: Pixels, size: int, rng: np.random.Generator, smallest: float) -> Pixels:
    """A random part of `image`, at least `smallest` of each side, at times mirrored."""
    height, width = image.shape[:2]
    tall, wide = (rng.uniform(smallest, 1, 2) * (height, width)).astype(int).clip(2)
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    part = image[top : top + tall, left : left + wide]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    shrinks = tall * wide > size * size
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (size, size), interpolation=mode), np.uint8)


def surroundings(library: Library, size: int, rng: np.random.Generator) -> Pixels:
    return region(library.surroundings.draw(rng).rgb, size, rng, 0.45)


def picture(library: Library, size: int, rng: np.random.Generator) -> Pixels:
    return region(library.backgrounds[rng.integers(len(library.backgrounds))], size, rng, 0.3)


def blurred_photo(library: Library, size: int, rng: np.random.Generator) -> Pixels:
    """A photo too blurred for its subject to be one."""
    photo = region(library.photos.draw(rng).rgb, size, rng, 0.4)
    return _blurred(photo, rng.uniform(0.07, 0.15) * size)


def gradient(_library: Library, size: int, rng: np.random.Generator) -> Pixels:
    """A plain wall or studio sweep: two or four corner colours of near or far hue."""
    base = rng.uniform(0, 255, 3)
    corners = base + rng.normal(0, rng.choice([8, 25, 70]), (2, 2, 3))
    if rng.random() < 0.5:
        corners = np.repeat(corners[:, :1], 2, axis=1)  # changes from top to bottom only
    return _enlarged(corners, size)


def clouds(_library: Library, size: int, rng: np.random.Generator) -> Pixels:
    """Colour noise in four octaves: foliage, stone and cloth from far away."""
    image = np.tile(rng.uniform(30, 225, 3), (size, size, 1))
    for cells in (3, 7, 19, 51):
        amount = rng.uniform(0, 45) * np.array([1, rng.uniform(0.5, 1), rng.uniform(0.5, 1)])
        grid = rng.standard_normal((cells, cells, 1 if rng.random() < 0.6 else 3)) * amount
        image += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return image.clip(0, 255).astype(np.uint8)


def landscape(library: Library, size: int, rng: np.random.Generator) -> Pixels:
    """One background above another, the line between them soft and not quite level."""
    kinds = [maker for _, maker in MAKERS[:-1] if _has_material(maker, library)]
    above, below = (kinds[rng.integers(len(kinds))](library, size, rng) for _ in range(2))
    y = np.arange(size, dtype=np.float32)[:, None] - size * rng.uniform(0.25, 0.85)
    x = np.arange(size, dtype=np.float32)[None, :] * rng.normal(0, 0.05)
    share = 0.5 + 0.5 * np.tanh((y + x) / (size * rng.uniform(0.006, 0.12)))
    return (above + (below.astype(np.float32) - above) * share[..., None]).astype(np.uint8)


MAKERS: tuple[tuple[float, Maker], ...] = (
    (0.50, surroundings),
    (0.16, picture),
    (0.06, blurred_photo),
    (0.09, gradient),
    (0.05, clouds),
    (0.14, landscape),
)


def _has_material(maker: Maker, library: Library) -> bool:
    if maker is surroundings:
        return bool(library.surroundings)
    if maker is picture:
        return bool(library.backgrounds)
    return maker is not blurred_photo or bool(library.photos)


def _blurred(image: Pixels, sigma: float) -> Pixels:
    if sigma < 4:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma, 0.3)), np.uint8)
    side = image.shape[0]  # a wide blur costs less on a small copy and looks the same
    small = cv2.resize(image, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def _enlarged(grid: np.ndarray[tuple[int, ...], np.dtype[np.float64]], size: int) -> Pixels:
    wide = cv2.resize(grid.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return wide.clip(0, 255).astype(np.uint8)
