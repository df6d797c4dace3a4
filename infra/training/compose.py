"""Compose a training sample, a square image and its alpha, from its index: deterministic for a size."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from library import Box, Kinds, Layer, Library, Pixels, resized
from numpy.typing import NDArray

from bgpipe.pipeline.matting.resample import to_unit

Floats = NDArray[np.float32]

PHOTOS = 0.83  # share of samples that are photos; the rest are compositions
VIEWS = (0.4, 0.35, 0.25)  # shares of photos shown almost whole, close to the subject, in part
CLOSEST = 0.35  # of the sides of a photo: the smallest crop
TILTED = 0.25  # share of photos that are rotated
LONGEST = 1.4  # of the shorter side: the longer side of a close view
COVER = (0.04, 0.8)  # of the image, by a pasted subject
PASTED = (0.12, 0.7, 0.18)  # shares of compositions with no, one and two subjects
CUTOUTS = 0.5  # share of pasted subjects that are cut-outs; the rest come from photos
DEFOCUSED = 0.35  # share of backgrounds out of focus
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Composer:
    library: Library
    seed: int = 0

    def __call__(self, index: int, size: int) -> Layer:
        """Return sample `index`: rgb uint8 [size,size,3] and alpha uint8 [size,size]."""
        rng = np.random.default_rng((self.seed, index))
        sample = self._scene(size, rng)
        return Layer(photographed(sample.rgb, rng), sample.alpha)

    def _scene(self, size: int, rng: np.random.Generator) -> Layer:
        photos = self.library.photos
        if photos.members and rng.random() < PHOTOS:
            shown = view(photos.draw(rng), size, rng)
            return Layer(jittered(shown.rgb, rng, 0.8), shown.alpha)
        canvas = ground(self.library, size, rng)
        for _ in range(rng.choice(3, p=PASTED)):
            cut = not photos.members or (self.library.cutouts.members and rng.random() < CUTOUTS)
            subject = self._subject(self.library.cutouts if cut else photos, rng)
            canvas = pasted(canvas, subject, rng)
        return canvas

    def _subject(self, drawn: Kinds, rng: np.random.Generator) -> Layer:
        """Return a cut-out or the subject of a photo, relit."""
        layer = drawn.draw(rng).trimmed()
        return Layer(jittered(layer.rgb, rng), layer.alpha) if layer else self._subject(drawn, rng)


def ground(library: Library, size: int, rng: np.random.Generator) -> Layer:
    """Return a square image without a subject: a background, a strongly blurred photo, or a gradient."""
    kind = rng.random()
    if library.backgrounds.members and kind < 0.65:
        image = region(library.backgrounds.draw(rng).rgb, size, rng, 0.4)
        if rng.random() < DEFOCUSED:
            image = blurred(image, rng.uniform(0.005, 0.03) * size)
    elif library.photos.members and kind < 0.85:
        image = region(library.photos.draw(rng).rgb, size, rng, 0.4)
        image = blurred(image, rng.uniform(0.07, 0.15) * size)
    else:
        image = gradient(size, rng)
    return Layer(jittered(image, rng), np.zeros((size, size), np.uint8))


def region(image: Pixels, size: int, rng: np.random.Generator, smallest: float) -> Pixels:
    """Return a random crop, at least `smallest` of each side, half of them mirrored."""
    height, width = image.shape[:2]
    tall, wide = (rng.uniform(smallest, 1, 2) * (height, width)).astype(int).clip(2)
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    part = image[top : top + tall, left : left + wide]
    return resized(part[:, ::-1] if rng.random() < 0.5 else part, size, size)


def blurred(image: Pixels, sigma: float) -> Pixels:
    side = image.shape[0]  # a wide blur costs less on a small copy
    small = cv2.resize(image, (side // 4, side // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / 4, 0.3))
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def gradient(size: int, rng: np.random.Generator) -> Pixels:
    """Return a plain wall or studio sweep, interpolated between corner colours."""
    corners = rng.uniform(0, 255, 3) + rng.normal(0, rng.choice([4, 20, 60]), (2, 2, 3))
    if rng.random() < 0.5:
        corners = np.repeat(corners[:, :1], 2, axis=1)  # vertical only
    return resized(corners.clip(0, 255).astype(np.uint8), size, size)


def view(photo: Layer, size: int, rng: np.random.Generator) -> Layer:
    """Return a photo as square input: whole, filled by its subject, or a crop with a part of it."""
    box = (_whole, close_up, _part)[rng.choice(3, p=VIEWS)](photo, rng)
    shown = mirrored(photo.part(box), rng).resized(size, size)
    if rng.random() >= TILTED:
        return shown
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 10), 1.05)
    rgb, alpha = (
        np.asarray(
            cv2.warpAffine(x, turn, (size, size), borderMode=cv2.BORDER_REFLECT_101), np.uint8
        )
        for x in (shown.rgb, shown.alpha)
    )
    return Layer(rgb, alpha)


def mirrored(layer: Layer, rng: np.random.Generator) -> Layer:
    """Mirror half of the layers."""
    return Layer(layer.rgb[:, ::-1], layer.alpha[:, ::-1]) if rng.random() < 0.5 else layer


def pasted(canvas: Layer, subject: Layer, rng: np.random.Generator) -> Layer:
    """Composite `subject` over `canvas` at a random place, premultiplied, so that alpha is exact."""
    size = canvas.alpha.shape[0]
    share = to_unit(subject.alpha)[..., None]
    premultiplied = np.concatenate([to_unit(subject.rgb) * share, share], axis=2)
    placed = cv2.warpAffine(premultiplied, placement(subject, size, rng), (size, size))
    if rng.random() < 0.3:
        placed = cv2.GaussianBlur(placed, (0, 0), rng.uniform(0.4, 1.1))
    colour, alpha = np.split(np.asarray(placed, np.float32), [3], axis=2)  # [S,S,3], [S,S,1]
    behind = to_unit(canvas.rgb)
    if rng.random() < 0.3:  # a shadow on the background
        move = np.float32([[1, 0, rng.normal(0, 0.06) * size], [0, 1, 0]])
        move[1, 2] = rng.uniform(0, 0.06) * size
        shade = cv2.warpAffine(alpha, move, (size, size))
        shade = cv2.GaussianBlur(shade, (0, 0), rng.uniform(0.01, 0.05) * size)
        behind *= 1 - shade[..., None] * np.float32(rng.uniform(0.15, 0.6))
    rgb = (colour + behind * (1 - alpha)) * 255
    union = alpha[..., 0] * 255 + canvas.alpha * (1 - alpha[..., 0])
    return Layer(rgb.clip(0, 255).astype(np.uint8), union.clip(0, 255).astype(np.uint8))


def placement(subject: Layer, size: int, rng: np.random.Generator) -> Floats:
    """Return the affine matrix from the subject to the canvas: flip, rotate, stretch, translate."""
    height, width = subject.alpha.shape
    covered = max(float(subject.alpha.mean()) / 255, 0.05) * subject.alpha.size
    scale = size * np.sqrt(np.exp(rng.uniform(*np.log(COVER))) / covered)
    angle = np.deg2rad(rng.normal(0, 10))
    stretch = np.exp(rng.normal(0, 0.12)) * rng.choice([-1, 1])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * rotation @ np.diag([stretch, 1])
    shift = rng.normal(0.5, 0.14, 2) * size - linear @ np.array([width / 2, height / 2])
    return np.hstack([linear, shift[:, None]]).astype(np.float32)


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


def _whole(photo: Layer, rng: np.random.Generator) -> Box:
    height, width = photo.alpha.shape
    cut = rng.uniform(0, 0.07, 4) * (height, height, width, width)
    top, bottom, left, right = cut.astype(int)
    return slice(top, height - bottom), slice(left, width - right)


def close_up(photo: Layer, rng: np.random.Generator) -> Box:
    """Return a box that the subject fills: its own, each side moved by up to an eighth, and of a tall or
    wide subject mostly the upper or left end, as in a portrait.
    """
    left, top, wide, tall = photo.box
    if not wide or not tall:
        return _part(photo, rng)
    offset = rng.choice((0, rng.random()), p=(0.7, 0.3))
    shown = np.minimum((tall, wide), (LONGEST * wide, LONGEST * tall))
    start = (top, left) + offset * ((tall, wide) - shown)
    before, after = rng.uniform(-1 / 8, 1 / 8, (2, 2)).T * shown
    first = np.maximum(start - before, 0).astype(int)
    last = np.minimum(start + shown + after, photo.alpha.shape).astype(int)
    rows, columns = map(slice, first, np.maximum(last, first + 2))
    return rows, columns


def _part(photo: Layer, rng: np.random.Generator) -> Box:
    """Return a box of moderate aspect around a point of the subject."""
    height, width = photo.alpha.shape
    aspect = width / height * np.exp(rng.uniform(-0.4, 0.4))
    wide = min(width, height * aspect) * rng.uniform(CLOSEST, 1)
    tall = min(wide / aspect, height)
    inside = np.argwhere(photo.alpha > 127)
    y, x = inside[rng.integers(len(inside))] if len(inside) else (height / 2, width / 2)
    top = int(np.clip(y - tall * rng.normal(0.5, 0.15), 0, height - tall))
    left = int(np.clip(x - wide * rng.normal(0.5, 0.15), 0, width - wide))
    return slice(top, top + max(int(tall), 2)), slice(left, left + max(int(wide), 2))
