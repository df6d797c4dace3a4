"""From a cutout to a picture for a catalogue: framed, with a shadow, on a ground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.matting.layout import find_subject_box, layout, render
from bgpipe.pipeline.types import Cutout

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Pixels, Plane, Preset

    Colours = npt.NDArray[np.float32]
    """float32 [N, 3 or 4] in [0, 255]."""
    Positions = npt.NDArray[np.intp]
    """[N]: row * width + column."""

SHADOW_SOURCE = 0.35
"""Share of the subject's height, from its foot, that throws the shadow."""
SHADOW_HEIGHT = 0.12
"""Of the shadow, as a share of the subject's width or height, whichever is less."""
SHADOW_BLUR = 0.035
"""Sigma, as a share of the same."""
BLOCK_ROWS = 1 << 18
"""Pixels mixed at once: in float they take ten times their room."""


def composite(cutout: Cutout, preset: Preset, ground: Pixels | None, max_pixels: int) -> Cutout:
    """Crop, place, shade and ground the cutout as the preset says.

    `ground` [h, w, 3] has the colours of the picture's profile; it is scaled to cover the canvas,
    and the result is opaque. Opaque pixels keep their colours bit for bit unless a canvas of fixed
    size makes them be scaled.

    Raises:
        PermanentError: TOO_LARGE, margin and aspect ask for more than `max_pixels`.

    """
    if preset.crop or preset.margin or preset.canvas:
        cutout = Cutout(_placed(cutout.rgba, preset, max_pixels))
    if not preset.shadow and ground is None:
        return cutout
    shade = _shadow(cutout.rgba, preset.shadow) if preset.shadow else None
    return Cutout(_over(cutout.rgba, shade, ground))


def _placed(rgba: Pixels, preset: Preset, max_pixels: int) -> Pixels:
    framed = layout(rgba[..., 3], preset)
    width, height = framed.size
    if width * height > max_pixels:
        raise PermanentError(
            Code.TOO_LARGE,
            f"margin and canvas ask for {width} x {height} pixels: more than images allow, "
            f"{max_pixels}",
        )
    return render(rgba, framed)


def _shadow(rgba: Pixels, opacity: float) -> Plane | None:
    """How dark the ground is: the subject's foot, flattened and blurred, darker where it is lower."""
    alpha = rgba[..., 3]
    box = find_subject_box(alpha)
    if box is None:
        return None
    extent = min(box.width, box.height)
    foot = alpha[box.bottom - max(1, round(SHADOW_SOURCE * box.height)) : box.bottom]
    nearness = np.linspace(0, 1, len(foot) + 1, dtype=np.float32)[1:, None] ** 2
    height = max(1, round(SHADOW_HEIGHT * extent))
    shade = np.zeros(alpha.shape, np.float32)
    top = box.bottom - height // 2
    rows = shade[max(top, 0) : top + height]
    rows[:] = (foot * nearness).max(axis=0)
    sigma = max(SHADOW_BLUR * extent, 0.5)
    blurred = cv2.GaussianBlur(shade, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred * np.float32(opacity / 255), np.float32)


def _over(rgba: Pixels, shade: Plane | None, ground: Pixels | None) -> Pixels:
    """The cutout over its shadow over the ground, computed where it is not opaque."""
    places = np.flatnonzero(rgba[..., 3] < 255)
    behind = None if ground is None else _covering(ground, rgba.shape)
    out = rgba.copy()
    pixels = out.reshape(-1, 4)
    for start in range(0, places.size, BLOCK_ROWS):
        block = places[start : start + BLOCK_ROWS]
        s = np.float32(0) if shade is None else shade.reshape(-1, 1)[block]
        pixels[block] = _mixed(pixels[block].astype(np.float32), s, behind, block)
    return out


def _mixed(
    pixels: Colours, s: Plane | np.float32, behind: Pixels | None, places: Positions
) -> Pixels:
    a = pixels[:, 3:] / np.float32(255)
    own = a * pixels[:, :3]
    if behind is None:
        alpha = a + (1 - a) * s
        colour = own / np.maximum(alpha, np.float32(1e-6))
    else:
        alpha = np.ones_like(a)
        ground = behind if behind.size == 3 else behind.reshape(-1, 3)[places]
        colour = own + (1 - a) * (1 - s) * ground.reshape(-1, 3)
    mixed = np.rint(np.concatenate([colour, alpha * 255], axis=1)).astype(np.uint8)
    mixed[mixed[:, 3] == 0] = 0
    return np.asarray(mixed, np.uint8)


def _covering(ground: Pixels, shape: tuple[int, ...]) -> Pixels:
    """The ground, scaled to cover a canvas of this shape and cut at its middle; a colour as it is."""
    height, width = shape[:2]
    rows, columns = ground.shape[:2]
    if rows == columns == 1:
        return ground
    scale = max(height / rows, width / columns)
    size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    covering = np.asarray(cv2.resize(ground, size, interpolation=method), np.uint8)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.ascontiguousarray(covering[top : top + height, left : left + width])
