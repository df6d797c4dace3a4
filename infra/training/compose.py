"""One training sample from a number: a square picture and its alpha.

Sample i of a seed is always the same, whichever process makes it and however often training was
interrupted before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from backgrounds import background
from camera import jittered, photographed
from library import Layer, Library, Pixels, drawn_in, emptied
from subjects import ASIDE, INSIDE, Place, a_subject, paste

EMPTY = 0.04  # share of pictures with no subject at all
WHOLE = 0.4  # share of photos shown (almost) whole
CLOSEST = 0.35  # the smallest part of a photo, of what fits in it
FULLEST = 0.8  # share of a picture that subjects may cover: more leaves nothing to tell them from
ATTEMPTS = 5  # at a scene that is not too full
TILTED = 0.25  # share of photos that are not held level
CROWDED = 0.1  # share of compositions that start from a photo with its subject in it
DISTRACTED = 0.15  # share of backgrounds with something out of focus in them
CLUTTERED = 0.1  # and of those with sharp things on the edge of the frame
DEFOCUSED = 0.4  # share of regrounded photos that keep their ground, out of focus


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of samples."""

    photos: float = 0.5  # of samples: photos, the rest are compositions
    regrounded: float = 0.4  # of photos: those that stand before another ground or a blurred one
    made: float = 0.4  # of pasted subjects: forms that mean nothing, covered with real surfaces


@dataclass(frozen=True)
class Composer:
    library: Library
    size: int
    seed: int = 0
    mix: Mix = Mix()

    def __call__(self, index: int) -> Layer:
        """Sample `index`: rgb uint8 [size,size,3] and alpha uint8 [size,size]."""
        rng = np.random.default_rng((self.seed, index))
        for _ in range(ATTEMPTS):
            sample = self._scene(rng)
            if sample.alpha.mean() <= FULLEST * 255:
                break
        return Layer(photographed(sample.rgb, rng), sample.alpha)

    def _scene(self, rng: np.random.Generator) -> Layer:
        if rng.random() < EMPTY:
            return _bare(background(self.library, self.size, rng))
        photos, cutouts = self.library.photos, self.library.cutouts
        if photos and (rng.random() < self.mix.photos or not (cutouts or self.library.subjects)):
            return self._photo(rng)
        return self._composition(rng)

    def _photo(self, rng: np.random.Generator) -> Layer:
        photo = self.library.photos.draw(rng)
        if rng.random() >= self.mix.regrounded:
            shown = view(photo, self.size, rng)
        elif rng.random() < DEFOCUSED:
            shown = view(defocused(photo, rng), self.size, rng)
        else:
            ground = background(self.library, self.size, rng)
            shown = over(view(photo, self.size, rng), ground, rng)
        return Layer(jittered(shown.rgb, rng, 0.8), shown.alpha)

    def _composition(self, rng: np.random.Generator) -> Layer:
        if self.library.photos and rng.random() < CROWDED:
            canvas = self._photo(rng)
        else:
            canvas = self._ground(rng)
        for _ in range(rng.choice((1, 2, 3), p=(0.74, 0.17, 0.09))):
            canvas = paste(canvas, a_subject(self.library, self.mix.made, rng), rng)
        return canvas

    def _ground(self, rng: np.random.Generator) -> Layer:
        ground = background(self.library, self.size, rng)
        kind = rng.random()
        if kind < DISTRACTED:
            blur = self.size * rng.uniform(0.02, 0.06)
            ground = self._with_thing(ground, INSIDE, rng)
            ground = np.asarray(cv2.GaussianBlur(ground, (0, 0), blur), np.uint8)
        elif kind < DISTRACTED + CLUTTERED:
            for _ in range(rng.integers(1, 4)):
                ground = self._with_thing(ground, ASIDE, rng)
        return _bare(ground)

    def _with_thing(self, ground: Pixels, where: Place, rng: np.random.Generator) -> Pixels:
        """The ground with something that could be a subject, and is none."""
        return paste(_bare(ground), a_subject(self.library, self.mix.made, rng), rng, where).rgb


def defocused(photo: Layer, rng: np.random.Generator) -> Layer:
    """The photo with its ground out of focus and in other light; as it is where the ground cannot
    be told without the subject.
    """
    ground = emptied(photo)
    if ground is None:
        return photo
    blur = max(photo.alpha.shape) * rng.uniform(0.004, 0.03)
    ground = np.asarray(cv2.GaussianBlur(ground, (0, 0), blur), np.uint8)
    return over(photo, jittered(ground, rng, 0.6), rng)


def over(photo: Layer, ground: Pixels, rng: np.random.Generator) -> Layer:
    """The photo's subject, where it is, in other light, over another ground of the same size."""
    alpha = drawn_in(photo.alpha)
    share = alpha[..., None] / np.float32(255)
    subject = jittered(photo.rgb, rng, 0.4)
    return Layer((ground + (subject - ground.astype(np.float32)) * share).astype(np.uint8), alpha)


def view(photo: Layer, size: int, rng: np.random.Generator) -> Layer:
    """A photo as square input: whole, or a part that has some of its subject in it."""
    box = _whole(photo, rng) if rng.random() < WHOLE else _part(photo, rng)
    rgb, alpha = photo.rgb[box], photo.alpha[box]
    if rng.random() < 0.5:
        rgb, alpha = rgb[:, ::-1], alpha[:, ::-1]
    mode = cv2.INTER_AREA if alpha.size > size * size else cv2.INTER_LINEAR
    square = (cv2.resize(x, (size, size), interpolation=mode) for x in (rgb, alpha))
    shown = Layer(*(np.asarray(x, np.uint8) for x in square))
    return _tilted(shown, rng.normal(0, 8)) if rng.random() < TILTED else shown


def _tilted(layer: Layer, degrees: float) -> Layer:
    size = layer.alpha.shape[0]
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), degrees, 1.05)
    turned = (
        cv2.warpAffine(x, matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101)
        for x in (layer.rgb, layer.alpha)
    )
    return Layer(*(np.asarray(x, np.uint8) for x in turned))


Box = tuple[slice, slice]


def _whole(photo: Layer, rng: np.random.Generator) -> Box:
    height, width = photo.alpha.shape
    top, bottom, left, right = rng.uniform(0, 0.07, 4)
    return (
        slice(int(top * height), height - int(bottom * height)),
        slice(int(left * width), width - int(right * width)),
    )


def _part(photo: Layer, rng: np.random.Generator) -> Box:
    """A box of moderate aspect around a point of the subject's box."""
    height, width = photo.alpha.shape
    aspect = np.exp(rng.uniform(-0.5, 0.5))
    wide = min(width, height * aspect) * rng.uniform(CLOSEST, 1)
    tall = wide / aspect
    y, x = _point_in_subject(photo, rng)
    top = _start(y - tall * rng.normal(0.5, 0.15), tall, height)
    left = _start(x - wide * rng.normal(0.5, 0.15), wide, width)
    return slice(top, top + max(int(tall), 2)), slice(left, left + max(int(wide), 2))


def _start(wanted: float, length: float, limit: int) -> int:
    return int(np.clip(wanted, 0, limit - length))


def _point_in_subject(photo: Layer, rng: np.random.Generator) -> tuple[float, float]:
    """A point of the subject's box, more often high than low: heads matter more than feet."""
    rows = np.flatnonzero(photo.alpha.max(axis=1) > 127)
    columns = np.flatnonzero(photo.alpha.max(axis=0) > 127)
    if rows.size == 0:
        return photo.alpha.shape[0] / 2, photo.alpha.shape[1] / 2
    return float(rng.choice(rows, 2).min()), float(rng.choice(columns))


def _bare(rgb: Pixels) -> Layer:
    return Layer(rgb, np.zeros(rgb.shape[:2], np.uint8))
