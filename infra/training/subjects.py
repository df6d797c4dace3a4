"""Put a subject into a picture: its place, its light, its shadow. Matches how cut-outs are made:
colours are mixed by alpha, so the alpha that was pasted is the exact answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from backgrounds import region
from camera import Floats, in_unit, jittered
from library import Layer, Library, Pixels
from surfaces import made_subject

LONGEST = 2.2  # longer side of a pasted subject, of the picture's
TALL = 0.8  # of the picture's height: a taller subject has its head in the picture, not its feet
PORTRAIT = 0.25  # share of subjects that stand on the lower edge and may be cut by it
HARMONISED = 0.25  # share of subjects that take on some of the ground's colours
OWN_TEXTURE = 0.25  # share of drawn subjects that keep their shape and get a real surface


@dataclass(frozen=True)
class Place:
    """Where things are pasted, and the shares of the picture that they cover if nothing cuts them."""

    cover: tuple[float, float]
    on_edge: bool


INSIDE = Place((0.03, 0.5), on_edge=False)
ASIDE = Place((0.01, 0.06), on_edge=True)


def a_subject(library: Library, made: float, rng: np.random.Generator) -> Layer:
    """A cut-out or the subject of a photo in other light, or, `made` of them, a made one."""
    if rng.random() < made:
        return made_subject(library, rng)
    from_photo = library.subjects and (not library.cutouts or rng.random() < 0.6)
    layer = (library.subjects if from_photo else library.cutouts).draw(rng)
    rgb = jittered(layer.rgb, rng)
    if not from_photo and library.photos and rng.random() < OWN_TEXTURE:
        rgb = textured(rgb, library.photos.draw(rng).rgb, rng)
    return Layer(rgb, layer.alpha)


def textured(rgb: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Detail of another picture laid over flat colours."""
    patch = region(other, max(rgb.shape[:2]), rng, 0.2)[: rgb.shape[0], : rgb.shape[1]]
    detail = patch.astype(np.float32) - np.float32(patch.mean())
    return (rgb + detail * np.float32(rng.uniform(0.2, 1))).clip(0, 255).astype(np.uint8)


def paste(canvas: Layer, subject: Layer, rng: np.random.Generator, place: Place = INSIDE) -> Layer:
    """Return `canvas` with `subject` over it at a random place; the alphas unite."""
    size = canvas.alpha.shape[0]
    subject = _about_as_large(subject, _side(subject, size, place.cover, rng))
    matrix = placement(subject, size, place, rng)
    placed = cv2.warpAffine(_premultiplied(subject), matrix, (size, size))  # [S,S,4] in [0,1]
    if rng.random() < 0.3:
        placed = cv2.GaussianBlur(placed, (0, 0), rng.uniform(0.4, 1.1))
    colour, alpha = np.split(np.asarray(placed, np.float32), [3], axis=2)
    ground = in_unit(canvas.rgb)
    if rng.random() < 0.4:
        ground *= 1 - shadow(alpha[..., 0], rng)[..., None]
    colour = np.minimum(colour * _light_match(colour, alpha, ground, rng), alpha)
    if rng.random() < HARMONISED:
        colour = harmonised(colour, alpha, ground, np.float32(rng.uniform(0.1, 0.6)))
    rgb = (colour + ground * (1 - alpha)) * 255
    union = alpha[..., 0] * 255 + canvas.alpha * (1 - alpha[..., 0])
    return Layer(rgb.clip(0, 255).astype(np.uint8), union.clip(0, 255).astype(np.uint8))


def placement(subject: Layer, size: int, place: Place, rng: np.random.Generator) -> Floats:
    """The affine matrix from the subject's pixels to a square canvas: flip, turn, stretch, move."""
    height, width = subject.alpha.shape
    turn = rng.uniform(-180, 180) if rng.random() < 0.08 else rng.normal(0, 8)
    angle = np.deg2rad(turn)
    stretch = np.exp(rng.normal(0, 0.12)) * rng.choice([-1, 1])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.diag([stretch, 1])
    x, y = rng.normal(0.5, 0.12, 2) * size
    if place.on_edge:
        x, y = rng.permutation([rng.uniform(0, 1), rng.choice([0, 1]) + rng.normal(0, 0.06)]) * size
    elif height > TALL * size and rng.random() < 0.7:
        y = size * rng.uniform(-0.05, 0.35) + height / 2
    elif rng.random() < PORTRAIT:
        y = size - height * rng.uniform(0.2, 0.5)
    shift = np.array([x, y]) - linear @ np.array([width / 2, height / 2])
    return np.hstack([linear, shift[:, None]]).astype(np.float32)


def harmonised(colour: Floats, alpha: Floats, ground: Floats, share: np.float32) -> Floats:
    """Premultiplied `colour` [S,S,3] with each channel's mean and deviation moved by `share` of the
    way to the ground's (Reinhard et al. 2001, Color Transfer between Images, in RGB).
    """
    covered = float(alpha.sum()) + 1e-3
    straight = colour / np.maximum(alpha, 1e-3)
    mean = (straight * alpha).sum(axis=(0, 1)) / covered
    deviation = np.sqrt(((straight - mean) ** 2 * alpha).sum(axis=(0, 1)) / covered)
    gain = ((ground.std(axis=(0, 1)) + 0.02) / (deviation + 0.02)).clip(0.5, 2) ** share
    moved = (straight - mean) * gain + mean + (ground.mean(axis=(0, 1)) - mean) * share
    return np.asarray(moved.clip(0, 1) * alpha, np.float32)


def shadow(alpha: Floats, rng: np.random.Generator) -> Floats:
    """How much light [S,S] in [0,1] a subject takes from the ground: its outline, flattened on
    its lowest line, leaning and blurred.
    """
    size = alpha.shape[0]
    rows = np.flatnonzero((alpha > 0.1).any(axis=1))
    if rows.size == 0:
        return np.zeros_like(alpha)
    base, flat, lean = float(rows[-1]), rng.uniform(0.08, 0.9), rng.normal(0, 0.5)
    matrix = np.array([[1, -lean, lean * base], [0, flat, base * (1 - flat)]], np.float32)
    cast = cv2.warpAffine(alpha, matrix, (size, size))
    cast = cv2.GaussianBlur(cast, (0, 0), size * rng.uniform(0.008, 0.05))
    return np.asarray(cast * np.float32(rng.uniform(0.15, 0.6)), np.float32)


def _side(
    subject: Layer, size: int, covers: tuple[float, float], rng: np.random.Generator
) -> float:
    """The longer side that lets the subject cover a share of the picture, small ones as often as
    large ones.
    """
    cover = np.exp(rng.uniform(*np.log(covers)))
    covers_now = max(float(subject.alpha.mean()) / 255, 0.05) * subject.alpha.size
    longer = max(subject.alpha.shape)
    return float(min(longer * size * np.sqrt(cover / covers_now), LONGEST * size))


def _light_match(
    colour: Floats, alpha: Floats, ground: Floats, rng: np.random.Generator
) -> np.float32:
    """A gain that brings the subject's brightness part of the way to the ground's."""
    covered = float(alpha.sum()) * 3 + 1e-3
    ratio = (float(ground.mean()) + 0.05) / (float(colour.sum()) / covered + 0.05)
    return np.float32(np.clip(ratio, 0.5, 1.6) ** rng.uniform(0, 0.6))


def _premultiplied(layer: Layer) -> Floats:
    alpha = in_unit(layer.alpha)[..., None]
    return np.concatenate([in_unit(layer.rgb) * alpha, alpha], axis=2)


def _about_as_large(layer: Layer, side: float) -> Layer:
    """Resized to a longer side of `side`, averaging where it shrinks."""
    height, width = layer.alpha.shape
    scale = side / max(height, width)
    size = (max(round(width * scale), 2), max(round(height * scale), 2))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    rgb, alpha = (cv2.resize(x, size, interpolation=mode) for x in (layer.rgb, layer.alpha))
    return Layer(np.asarray(rgb, np.uint8), np.asarray(alpha, np.uint8))
