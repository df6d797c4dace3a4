"""From a cutout to a catalog image: on its canvas, with a shadow, over a background."""

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

    Colors = npt.NDArray[np.float32]
    """float32 [N, 3 or 4] in [0, 255]."""
    Positions = npt.NDArray[np.intp]
    """[N]: row * width + column."""

SHADOW_SOURCE = 0.35
"""Share of the subject's height, from its foot, that throws the shadow."""
SHADOW_HEIGHT = 0.12
"""Height of the shadow, as a share of the subject's width or height, whichever is less."""
SHADOW_BLUR = 0.035
"""Sigma, as a share of the same."""
BLOCK_PIXELS = 1 << 18
"""Mixed at once: in float they take ten times their memory."""


def composite(cutout: Cutout, preset: Preset, background: Pixels | None, max_pixels: int) -> Cutout:
    """Crop and place the cutout, and put it over a shadow and a background as the preset asks.

    `background` [h, w, 3], in the image's own color profile, is scaled to cover the canvas; the
    result is opaque then. Opaque pixels keep their colors bit for bit unless a canvas of fixed size
    requires scaling.

    Raises:
        PermanentError: TOO_LARGE, margin and aspect ask for more than `max_pixels`.

    """
    if preset.crop or preset.margin or preset.canvas:
        cutout = Cutout(_place(cutout.rgba, preset, max_pixels))
    if not preset.shadow and background is None:
        return cutout
    shadow = _make_shadow(cutout.rgba, preset.shadow) if preset.shadow else None
    return Cutout(_put_over(cutout.rgba, shadow, background))


def _place(rgba: Pixels, preset: Preset, max_pixels: int) -> Pixels:
    frame = layout(rgba[..., 3], preset)
    width, height = frame.size
    if width * height > max_pixels:
        raise PermanentError(
            Code.TOO_LARGE,
            f"margin and canvas ask for {width} x {height} pixels: more than images allow, "
            f"{max_pixels}",
        )
    return render(rgba, frame)


def _make_shadow(rgba: Pixels, opacity: float) -> Plane | None:
    """Return the shadow's opacity: the subject's foot, flattened and blurred, darkest at its end."""
    alpha = rgba[..., 3]
    box = find_subject_box(alpha)
    if box is None:
        return None
    extent = min(box.width, box.height)
    foot = alpha[box.bottom - max(1, round(SHADOW_SOURCE * box.height)) : box.bottom]
    nearness = np.linspace(0, 1, len(foot) + 1, dtype=np.float32)[1:, None] ** 2
    height = max(1, round(SHADOW_HEIGHT * extent))
    shadow = np.zeros(alpha.shape, np.float32)
    top = box.bottom - height // 2
    rows = shadow[max(top, 0) : top + height]
    rows[:] = (foot * nearness).max(axis=0)
    sigma = max(SHADOW_BLUR * extent, 0.5)
    blurred = cv2.GaussianBlur(shadow, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred * np.float32(opacity / 255), np.float32)


def _put_over(rgba: Pixels, shadow: Plane | None, background: Pixels | None) -> Pixels:
    """Put the cutout over its shadow over the background, wherever it is not opaque."""
    positions = np.flatnonzero(rgba[..., 3] < 255)
    behind = None if background is None else _cover(background, rgba.shape)
    out = rgba.copy()
    pixels = out.reshape(-1, 4)
    for start in range(0, positions.size, BLOCK_PIXELS):
        block = positions[start : start + BLOCK_PIXELS]
        s = np.float32(0) if shadow is None else shadow.reshape(-1, 1)[block]
        pixels[block] = _mix(pixels[block].astype(np.float32), s, behind, block)
    return out


def _mix(
    pixels: Colors, s: Plane | np.float32, behind: Pixels | None, positions: Positions
) -> Pixels:
    """Return RGBA [N, 4] of pixels over a black shadow of opacity `s` [N, 1] over `behind`."""
    a = pixels[:, 3:] / np.float32(255)
    own = a * pixels[:, :3]
    if behind is None:
        alpha = a + (1 - a) * s
        color = own / np.maximum(alpha, np.float32(1e-6))
    else:
        alpha = np.ones_like(a)
        background = behind if behind.size == 3 else behind.reshape(-1, 3)[positions]
        color = own + (1 - a) * (1 - s) * background.reshape(-1, 3)
    mixed = np.rint(np.concatenate([color, alpha * 255], axis=1)).astype(np.uint8)
    mixed[mixed[:, 3] == 0] = 0
    return np.asarray(mixed, np.uint8)


def _cover(background: Pixels, shape: tuple[int, ...]) -> Pixels:
    """Scale the background to cover a canvas of this shape, cut at its middle; keep a single color."""
    height, width = shape[:2]
    rows, columns = background.shape[:2]
    if rows == columns == 1:
        return background
    scale = max(height / rows, width / columns)
    size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cover = np.asarray(cv2.resize(background, size, interpolation=method), np.uint8)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.ascontiguousarray(cover[top : top + height, left : left + width])
