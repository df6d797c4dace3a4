"""The pictures that training draws from, decoded once and kept in memory.

A data folder has up to three parts; every sub-folder of a part is a group of its own:

    foreground/   pictures with an alpha channel (cut-outs)
    photos/       `x.webp` beside its mask `x_alpha.png`
    background/   pictures without a subject

The photos that split.py holds out are left alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from split import held_out

Pixels = NDArray[np.uint8]
Columns = NDArray[np.int64]
Choice = Callable[[Path], bool]

PARTS = ("foreground", "photos", "background")
SUFFIXES = frozenset({".webp", ".png", ".jpg", ".jpeg"})
MASK = "_alpha"
OPAQUE_ENOUGH = 16  # of 255: below, a pixel does not count as part of a subject's box
LEAST_BESIDE = 0.2  # of a photo's width, that every row of it must have left beside its subject


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
    surroundings: Groups  # the photos without their subject


def load_library(folder: Path, side: int, without: Sequence[str] = ()) -> Library:
    """Decode every picture below `folder`, but those whose path from there fits a pattern of `without`,
    such as photos/people/*; the longer side becomes at most `side` pixels. Raises ValueError where there
    is nothing that could be composed, or nothing that a pattern leaves out.
    """
    pictures = [path for part in PARTS for path in _pictures(folder / part)]
    left_out: set[Path] = set()
    for pattern in without:
        fitting = {p for p in pictures if fnmatchcase(p.relative_to(folder).as_posix(), pattern)}
        if not fitting:
            raise ValueError(f"nothing to leave out: {pattern}; a pattern is like photos/people/*")
        left_out |= fitting

    def used(path: Path) -> bool:
        return path not in left_out

    cutouts = _groups(folder / "foreground", _cutouts(folder / "foreground", side, used))
    shown = photos_below(folder / "photos", side, lambda path: used(path) and not held_out(path))
    photos = _groups(folder / "photos", shown)
    subjects = Groups(tuple(filter(None, (_cut_out(group) for group in photos.members))))
    backgrounds = tuple(_plain(folder / "background", side, used))
    surroundings = Groups(tuple(filter(None, (_surroundings(group) for group in photos.members))))
    if not (photos or cutouts):
        raise ValueError(f"no cut-outs and no photos with masks: {folder}; see {__file__}")
    return Library(cutouts, photos, subjects, backgrounds, surroundings)


def photos_below(
    folder: Path, side: int | None, chosen: Choice = lambda _path: True
) -> Iterator[tuple[Path, Layer]]:
    """Every chosen photo with a mask; without `side` at its own size."""
    for path in _pictures(folder):
        mask = mask_of(path)
        if path.stem.endswith(MASK) or not mask.is_file() or not chosen(path):
            continue
        rgb = _shrunk(_rgb(_read(path, cv2.IMREAD_COLOR)), side)
        height, width = rgb.shape[:2]
        alpha = cv2.resize(
            _read(mask, cv2.IMREAD_GRAYSCALE), (width, height), interpolation=cv2.INTER_AREA
        )
        yield path, Layer(rgb, np.asarray(alpha, np.uint8))


def mask_of(photo: Path) -> Path:
    return photo.with_name(f"{photo.stem}{MASK}.png")


def emptied(photo: Layer) -> Pixels | None:
    """The photo without its subject: every row of it filled with what lies beside it, mirrored.
    None where too little lies beside it.
    """
    height, width = photo.alpha.shape
    left, right = _taken(photo.alpha)
    beside = left + width - right
    if beside.min() < width * LEAST_BESIDE:
        return None
    columns = np.arange(width)[None, :]
    middle = left + (right - left) * left // np.maximum(beside, 1)
    from_left = left - 1 - _bounced(columns - left, left)
    from_right = right + _bounced(right - 1 - columns, width - right)
    source = np.where(columns < middle, from_left, from_right)
    inside = (columns >= left) & (columns < right)
    source = np.where(inside, source, columns).clip(0, width - 1)
    return photo.rgb[np.arange(height)[:, None], source]


def drawn_in(alpha: Pixels) -> Pixels:
    """A mask a pixel smaller and softened: masks of photos are rarely exact."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return np.asarray(cv2.GaussianBlur(cv2.erode(alpha, cross), (3, 3), 0), np.uint8)


def _taken(alpha: Pixels) -> tuple[Columns, Columns]:
    """First and last but one column [H,1] that the subject takes, smooth from row to row."""
    height, width = alpha.shape
    reach = width // 30 + 2  # masks end a little inside their subject
    taken = cv2.dilate(alpha, np.ones((reach, 2 * reach + 1), np.uint8)) > OPAQUE_ENOUGH
    any_ = taken.any(axis=1)
    left = np.where(any_, taken.argmax(axis=1), width).astype(np.float32)[:, None]
    right = np.where(any_, width - taken[:, ::-1].argmax(axis=1), 0).astype(np.float32)[:, None]
    rows = np.ones((height // 8 + 1, 1), np.uint8)
    left, right = cv2.erode(left, rows), cv2.dilate(right, rows)
    left = np.where(right > left, left, width)
    return left.astype(np.int64), np.maximum(right, left).astype(np.int64)


def _bounced(distance: Columns, length: Columns) -> Columns:
    """`distance` walked up and down a strip of `length`."""
    length = np.maximum(length, 1)
    walked = distance % (2 * length)
    return np.where(walked < length, walked, 2 * length - 1 - walked)


def _cut_out(photos: tuple[Layer, ...]) -> tuple[Layer, ...]:
    cut = (Layer(photo.rgb, drawn_in(photo.alpha)).trimmed() for photo in photos)
    return tuple(layer for layer in cut if layer is not None)


def _surroundings(photos: tuple[Layer, ...]) -> tuple[Layer, ...]:
    around = (emptied(photo) for photo in photos)
    return tuple(Layer(rgb, np.zeros(rgb.shape[:2], np.uint8)) for rgb in around if rgb is not None)


def _groups(folder: Path, layers: Iterator[tuple[Path, Layer]]) -> Groups:
    by_group: dict[Path, list[Layer]] = defaultdict(list)
    for path, layer in layers:
        by_group[path.parent.relative_to(folder)].append(layer)
    return Groups(tuple(tuple(by_group[name]) for name in sorted(by_group)))


def _pictures(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)


def _cutouts(folder: Path, side: int, chosen: Choice) -> Iterator[tuple[Path, Layer]]:
    for path in filter(chosen, _pictures(folder)):
        bgra = _shrunk(_read(path, cv2.IMREAD_UNCHANGED), side)
        if bgra.ndim != 3 or bgra.shape[2] != 4:
            raise ValueError(f"cut-out without an alpha channel: {path}; move it to background/")
        layer = Layer(_rgb(bgra[..., :3]), bgra[..., 3].copy()).trimmed()
        if layer is not None:
            yield path, layer


def _plain(folder: Path, side: int, chosen: Choice) -> Iterator[Pixels]:
    for path in filter(chosen, _pictures(folder)):
        yield _shrunk(_rgb(_read(path, cv2.IMREAD_COLOR)), side)


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
