"""Outlines of subjects that no picture shows: alphas of random forms and of bent silhouettes.

What stands out from its surroundings is a subject, whatever it is. Forms that mean nothing, filled
with pieces of real photos, teach that without a picture of every kind of thing.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from library import Library, Pixels
from numpy.typing import NDArray

Points = NDArray[np.float64]
Maker = Callable[[Library, int, np.random.Generator], Pixels]

CORNERS = 72  # of the polygon that stands for a curve
SHIFT = 4  # bits behind the point in coordinates handed to OpenCV


def outline(library: Library, side: int, rng: np.random.Generator) -> Pixels:
    """A form as alpha, uint8 [side,side], never empty."""
    makers: tuple[Maker, ...] = (blob, limbs, limbs, silhouette, silhouette, silhouette)
    alpha = makers[rng.integers(len(makers))](library, side, rng)
    return alpha if alpha.max() > 127 else blob(library, side, rng)


def blob(_library: Library, side: int, rng: np.random.Generator) -> Pixels:
    """A stone, a leaf, a splash: one closed curve of few waves."""
    canvas = np.zeros((side, side), np.uint8)
    _fill(canvas, side / 2 + side * rng.uniform(0.25, 0.42) * _wave(rng, rng.uniform(0.05, 0.5)))
    return canvas


def limbs(_library: Library, side: int, rng: np.random.Generator) -> Pixels:
    """An animal, a plant, a machine: a body and some bent limbs."""
    canvas = np.zeros((side, side), np.uint8)
    centre = side * rng.uniform(0.35, 0.65, 2)
    _fill(canvas, centre + side * rng.uniform(0.12, 0.28) * _wave(rng, 0.25))
    for _ in range(rng.integers(2, 8)):
        bend = np.cumsum(rng.normal(0, 0.5, 5)) + rng.uniform(-np.pi, np.pi)
        strides = side * rng.uniform(0.05, 0.14) * np.stack([np.cos(bend), np.sin(bend)], axis=1)
        thick = int(side * rng.uniform(0.02, 0.12)) + 1
        joints = _fixed(centre + np.cumsum(strides, axis=0))
        cv2.polylines(canvas, [joints], False, 255, thick, cv2.LINE_AA, SHIFT)
    return canvas


def silhouette(library: Library, side: int, rng: np.random.Generator) -> Pixels:
    """The outline of some cut-out or of a photo's subject, bent."""
    sources = [groups for groups in (library.cutouts, library.subjects) if groups]
    alpha = sources[rng.integers(len(sources))].draw(rng).alpha
    alpha = np.asarray(cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    cells = int(rng.integers(3, 6))
    bend = rng.normal(0, side * rng.uniform(0, 0.1), (2, cells, cells)).astype(np.float32)
    x, y = (cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC) for part in bend)
    steps = np.arange(side, dtype=np.float32)
    return np.asarray(
        cv2.remap(alpha, x + steps[None, :], y + steps[:, None], cv2.INTER_LINEAR), np.uint8
    )


def _wave(rng: np.random.Generator, amount: float) -> Points:
    """Points [N,2] of a closed curve around the origin, its radius about 1."""
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    order = np.arange(2, 9)
    size, phase = rng.normal(0, amount, order.size) / order, rng.uniform(0, 2 * np.pi, order.size)
    radius = 1 + (size * np.cos(angle[:, None] * order + phase)).sum(axis=1)
    aspect = np.exp(rng.normal(0, 0.3))
    points = radius[:, None] * np.stack([np.cos(angle) * aspect, np.sin(angle) / aspect], axis=1)
    return np.asarray(points, np.float64)


def _fill(canvas: Pixels, points: Points) -> None:
    cv2.fillPoly(canvas, [_fixed(points)], 255, cv2.LINE_AA, SHIFT)


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.asarray(points * 2**SHIFT, np.int32)
