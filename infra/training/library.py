"""Training images, decoded once and kept in memory.

A data folder has up to three parts, of which every sub-folder is a group:

    foreground/   pictures with an alpha channel (cut-outs)
    photos/       `x.webp` beside its mask `x_alpha.png`; the kind of `kind_0001.webp` is `kind`
    background/   pictures without a subject

An index.json may list {"file": ..., "sure": confidence in [0,1] of a mask made by another network}.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = tuple[slice, slice]  # rows and columns
Choice = Callable[[Path], bool]

SUFFIXES = frozenset({".webp", ".png", ".jpg", ".jpeg"})
MASK = "_alpha"
HELD_OUT = 8  # one subject in 8
HELD_OUT_OF_KIND = 3  # of its photos in objects101, one in 3
OPAQUE_ENOUGH = 16  # of 255: alpha of pixels within a subject's box
LEAST_SURE = 0.75  # confidence at which a photo has weight 0
# Weights of the groups; 1 for others.
SHARES = {"objects101": 11.0, "people": 5.0, "clothing": 2.0, "objects": 1.5}


@dataclass(frozen=True)
class Layer:
    """An image and its matte: rgb [H,W,3], alpha [H,W], straight."""

    rgb: Pixels
    alpha: Pixels
    weight: float = 1.0  # within its kind

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return left, top, width and height of the subject; zeros without one."""
        left, top, width, height = cv2.boundingRect((self.alpha > OPAQUE_ENOUGH).astype(np.uint8))
        return left, top, width, height

    def trimmed(self) -> Layer | None:
        """Return the part of the image within the subject's box, or None without a subject."""
        x, y, width, height = self.box
        box = (slice(y, y + height), slice(x, x + width))
        return self.part(box) if min(width, height) > 1 else None

    def part(self, box: Box) -> Layer:
        return Layer(self.rgb[box], self.alpha[box])

    def resized(self, width: int, height: int) -> Layer:
        return Layer(resized(self.rgb, width, height), resized(self.alpha, width, height))


@dataclass(frozen=True)
class Kinds:
    """Layers by kind, and the probability of each kind."""

    members: tuple[tuple[Layer, ...], ...]
    chances: tuple[float, ...]

    def draw(self, rng: np.random.Generator) -> Layer:
        kind = self.members[rng.choice(len(self.members), p=self.chances)]
        weights = np.array([layer.weight for layer in kind])
        return kind[rng.choice(len(kind), p=weights / weights.sum())]


@dataclass(frozen=True)
class Library:
    cutouts: Kinds
    photos: Kinds
    backgrounds: Kinds


def load_library(folder: Path, side: int) -> Library:
    """Decode every image below `folder` to a longer side of at most `side` pixels.

    Raises ValueError if no image has a subject.
    """
    cutouts = by_kind(_cutouts(folder / "foreground", side), lambda path: path.parent.name)
    photos = by_kind(_trusted(folder, side), kind_of)
    if not (photos.members or cutouts.members):
        raise ValueError(f"no cut-outs and no photos with masks: {folder}; see {__file__}")
    plain = (
        (path, Layer(_read(path, side), np.empty((0, 0), np.uint8)))
        for path in _pictures(folder / "background")
    )
    return Library(cutouts, photos, by_kind(plain, lambda path: path.parent.name))


def photos_below(
    folder: Path, side: int | None, chosen: Choice = lambda _path: True
) -> Iterator[tuple[Path, Layer]]:
    """Yield every chosen photo with a mask, at full size without `side`."""
    for path in _pictures(folder):
        mask = path.with_name(f"{path.stem}{MASK}.png")
        if mask.is_file() and chosen(path):
            rgb, alpha = _read(path, side), _read(mask, None, cv2.IMREAD_GRAYSCALE)
            small = cv2.resize(alpha, rgb.shape[1::-1], interpolation=cv2.INTER_AREA)
            yield path, Layer(rgb, np.asarray(small, np.uint8))


def kind_of(photo: Path) -> str:
    """Return GROUP/KIND of .../GROUP/KIND_0001.jpg; GROUP/ if the name is only a number."""
    return f"{photo.parent.name}/{re.sub(r'_?[^_]*[0-9][^_]*$', '', photo.stem)}"


def held_out(photo: Path) -> bool:
    """Whether `photo` selects weights instead of training them: decided by its name, alike in every run.

    Photos of one subject, `name_01` and `name_02`, stay together. Of a kind of objects101 two thirds
    train all the same, as no other group shows it.
    """
    group, subject = photo.parent.name, re.sub(r"(_\d+)?(_alpha)?$", "", photo.stem)
    held = _one_in(HELD_OUT, f"{group}/{subject}")
    return held and (group != "objects101" or _one_in(HELD_OUT_OF_KIND, photo.stem))


def _one_in(count: int, name: str) -> bool:
    return zlib.crc32(name.encode()) % count == 0


def by_kind(layers: Iterable[tuple[Path, Layer]], kind: Callable[[Path], str]) -> Kinds:
    """Weigh groups by SHARES, and the kinds of a group by the cube root of their sizes."""
    members: dict[str, list[Layer]] = defaultdict(list)
    for path, layer in layers:
        members[kind(path)].append(layer)
    names = sorted(members)
    roots = np.cbrt([len(members[name]) for name in names])
    groups = np.array([name.split("/", 1)[0] for name in names])
    totals = [roots[groups == group].sum() for group in groups]
    chances = [SHARES.get(str(group), 1.0) for group in groups] * roots / totals
    return Kinds(tuple(tuple(members[name]) for name in names), tuple(chances / chances.sum()))


def resized(image: Pixels, width: int, height: int) -> Pixels:
    shrinks = min(image.shape[:2]) > min(width, height)
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=mode), np.uint8)


def _trusted(folder: Path, side: int) -> Iterator[tuple[Path, Layer]]:
    """Yield the training photos, weighted by the confidence of their masks."""
    index = folder / "index.json"
    entries = json.loads(index.read_text()) if index.is_file() else []
    sure = {entry["file"]: entry["sure"] for entry in entries if "sure" in entry}
    for path, photo in photos_below(folder / "photos", side, lambda path: not held_out(path)):
        trust = sure.get(path.relative_to(folder).as_posix(), 1.0)
        if trust > LEAST_SURE:
            yield path, Layer(photo.rgb, photo.alpha, (trust - LEAST_SURE) / (1 - LEAST_SURE))


def _cutouts(folder: Path, side: int) -> Iterator[tuple[Path, Layer]]:
    for path in _pictures(folder):
        rgba = _read(path, side, cv2.IMREAD_UNCHANGED)
        if rgba.ndim != 3 or rgba.shape[2] != 4:
            raise ValueError(f"cut-out without an alpha channel: {path}; move it to background/")
        if layer := Layer(rgba[..., :3].copy(), rgba[..., 3].copy()).trimmed():
            yield path, layer


def _pictures(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)


def _read(path: Path, side: int | None, mode: int = cv2.IMREAD_COLOR) -> Pixels:
    """Read RGB, RGBA or grey, reduced to a longer side of `side` pixels."""
    image = cv2.imread(str(path), mode)
    if image is None:
        raise ValueError(f"not a readable image: {path}; remove or repair it")
    height, width = image.shape[:2]
    scale = side / max(height, width) if side else 1
    if scale < 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.ndim == 3:
        swap = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, swap)
    return np.asarray(image, np.uint8)
