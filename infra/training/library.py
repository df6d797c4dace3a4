"""The pictures that training draws from, decoded once and kept in memory.

A data folder has up to three parts; every sub-folder of a part is a group of its own:

    foreground/   pictures with an alpha channel (cut-outs)
    photos/       `x.webp` beside its mask `x_alpha.png`
    background/   pictures without a subject
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".webp", ".png", ".jpg", ".jpeg"})
MASK = "_alpha"
OPAQUE_ENOUGH = 16  # of 255: below, a pixel does not count as part of a subject's box


@dataclass(frozen=True)
class Layer:
    """A picture and its matte: rgb [H,W,3], alpha [H,W], straight, not premultiplied."""

    rgb: Pixels
    alpha: Pixels

    def trimmed(self) -> Layer | None:
        """The box around the subject, or None where there is none."""
        rows = np.flatnonzero((self.alpha > OPAQUE_ENOUGH).any(axis=1))
        columns = np.flatnonzero((self.alpha > OPAQUE_ENOUGH).any(axis=0))
        if rows.size < 2 or columns.size < 2:
            return None
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        return Layer(self.rgb[box], self.alpha[box])


@dataclass(frozen=True)
class Groups:
    """Layers by group. A group is drawn with the cube root of its size as weight, so that a large
    group does not drown the others, nor a handful of pictures come up all the time.
    """

    members: tuple[tuple[Layer, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.members)

    def draw(self, rng: np.random.Generator) -> Layer:
        weights = np.cbrt([len(group) for group in self.members])
        group = self.members[rng.choice(len(self.members), p=weights / weights.sum())]
        return group[rng.integers(len(group))]


@dataclass(frozen=True)
class Library:
    cutouts: Groups
    photos: Groups
    subjects: Groups  # the photos' subjects, cut out by their masks
    backgrounds: tuple[Pixels, ...]
    surroundings: Groups  # the photos without the columns their subject stands in


def load_library(folder: Path, side: int) -> Library:
    """Decode every picture below `folder`; the longer side becomes at most `side` pixels.
    Raises ValueError where there is nothing that could be composed.
    """
    cutouts = _groups(folder / "foreground", _cutouts(folder / "foreground", side))
    photos = _groups(folder / "photos", photos_below(folder / "photos", side))
    subjects = Groups(tuple(filter(None, (_cut_out(group) for group in photos.members))))
    backgrounds = tuple(image for _, image in _plain(folder / "background", side))
    surroundings = Groups(tuple(filter(None, (_surroundings(group) for group in photos.members))))
    if not (photos or cutouts):
        raise ValueError(f"no cut-outs and no photos with masks: {folder}; see {__file__}")
    return Library(cutouts, photos, subjects, backgrounds, surroundings)


def photos_below(folder: Path, side: int | None) -> Iterator[tuple[Path, Layer]]:
    """Every photo with a mask; without `side` at its own size."""
    for path in _pictures(folder):
        mask = path.with_name(f"{path.stem}{MASK}.png")
        if path.stem.endswith(MASK) or not mask.is_file():
            continue
        rgb = _shrunk(_rgb(_read(path, cv2.IMREAD_COLOR)), side)
        height, width = rgb.shape[:2]
        alpha = cv2.resize(
            _read(mask, cv2.IMREAD_GRAYSCALE), (width, height), interpolation=cv2.INTER_AREA
        )
        yield path, Layer(rgb, np.asarray(alpha, np.uint8))


def surroundings_of(photo: Layer) -> Pixels | None:
    """What is left and right of the subject, pushed together; None where too little is left."""
    taken = np.flatnonzero((photo.alpha > OPAQUE_ENOUGH).any(axis=0))
    if taken.size == 0:
        return photo.rgb
    margin = photo.alpha.shape[1] // 40  # masks end a little inside their subject
    left = photo.rgb[:, : max(taken[0] - margin, 0)]
    right = photo.rgb[:, taken[-1] + 1 + margin :]
    wider = left if left.shape[1] >= right.shape[1] else right
    if wider.shape[1] < photo.alpha.shape[1] // 6:
        return None
    return np.hstack([wider, wider[:, ::-1]])  # mirrored: no seam, and a useful width


def _cut_out(photos: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The subjects, their masks drawn in by a pixel and softened: masks are rarely exact."""
    cut = (Layer(photo.rgb, _drawn_in(photo.alpha)).trimmed() for photo in photos)
    return tuple(layer for layer in cut if layer is not None)


def _surroundings(photos: tuple[Layer, ...]) -> tuple[Layer, ...]:
    around = (surroundings_of(photo) for photo in photos)
    return tuple(Layer(rgb, np.zeros(rgb.shape[:2], np.uint8)) for rgb in around if rgb is not None)


def _drawn_in(alpha: Pixels) -> Pixels:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return np.asarray(cv2.GaussianBlur(cv2.erode(alpha, cross), (3, 3), 0), np.uint8)


def _groups(folder: Path, layers: Iterator[tuple[Path, Layer]]) -> Groups:
    by_group: dict[Path, list[Layer]] = defaultdict(list)
    for path, layer in layers:
        by_group[path.parent.relative_to(folder)].append(layer)
    return Groups(tuple(tuple(by_group[name]) for name in sorted(by_group)))


def _pictures(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)


def _cutouts(folder: Path, side: int) -> Iterator[tuple[Path, Layer]]:
    for path in _pictures(folder):
        bgra = _shrunk(_read(path, cv2.IMREAD_UNCHANGED), side)
        if bgra.ndim != 3 or bgra.shape[2] != 4:
            raise ValueError(f"cut-out without an alpha channel: {path}; move it to background/")
        layer = Layer(_rgb(bgra[..., :3]), bgra[..., 3].copy()).trimmed()
        if layer is not None:
            yield path, layer


def _plain(folder: Path, side: int) -> Iterator[tuple[Path, Pixels]]:
    for path in _pictures(folder):
        yield path, _shrunk(_rgb(_read(path, cv2.IMREAD_COLOR)), side)


def _read(path: Path, mode: int) -> Pixels:
    image = cv2.imread(str(path), mode)
    if image is None:
        raise ValueError(f"not a readable picture: {path}; remove it or repair it")
    return np.asarray(image, np.uint8)


def _rgb(bgr: Pixels) -> Pixels:
    return np.ascontiguousarray(bgr[..., ::-1])


def _shrunk(image: Pixels, side: int | None) -> Pixels:
    height, width = image.shape[:2]
    if side is None:
        return image
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
