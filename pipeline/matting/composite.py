"""From a cutout to a catalog image: its subject on a canvas, with a shadow, over a background."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from bgpipe.config.presets import BLUR
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.matting.resample import Positions
from bgpipe.pipeline.types import Cutout, Floats, Mask, Pixels, Plane, Preset

SOLID = 10  # alpha above which a pixel belongs to the subject; below is the haze of a soft matte
DUST = 0.005  # share of the largest part's area below which a part of the subject is dust
SHADOW_SOURCE = 0.35  # share of the subject's height, from its foot, that throws the shadow
SHADOW_HEIGHT = 0.12  # as a share of the subject's width or height, whichever is less
SHADOW_BLUR = 0.035  # sigma, as a share of the same
COARSE_SIGMA = 4  # in pixels of a reduced copy, at which a stronger blur is computed
LEAST_WEIGHT = 1 / 255
"""Weight of the subject in the blur of the background: it only fills what is hidden behind it."""
BLOCK_PIXELS = 1 << 18  # mixed at once: in float they take ten times their memory


@dataclass(frozen=True, slots=True)
class PixelBox:
    """Columns and rows of the source."""

    left: int
    top: int
    width: int
    height: int

    def expand(self, left: int, top: int, across: int, down: int) -> PixelBox:
        """Return a box with more columns and rows; `left` and `top` of them come before its own."""
        return PixelBox(self.left - left, self.top - top, self.width + across, self.height + down)


@dataclass(frozen=True, slots=True)
class Layout:
    """A box of the source, which may extend beyond it, scaled to `inner` on a canvas of `size`.

    Sizes are (width, height); `at` is the position of the scaled box's upper left corner.
    """

    box: PixelBox
    inner: tuple[int, int]
    at: tuple[int, int]
    size: tuple[int, int]


def composite(
    cutout: Cutout,
    preset: Preset,
    background: Pixels | None,
    max_pixels: int,
    outline: Pixels | None = None,
) -> Cutout:
    """Crop and place the cutout, and put it over outline, shadow and background as the preset asks.

    `background` [h, w, 3] is scaled to cover the canvas; the result is opaque then. `outline` [1, 1, 3]
    is the color of the preset's outline. Both are in the image's own color profile. Opaque pixels keep
    their colors bit for bit unless a size or a canvas of fixed size requires scaling.

    Raises PermanentError: TOO_LARGE, margin and aspect ask for more than `max_pixels`.
    """
    rgba = cutout.rgba
    if preset.crop or preset.margin or preset.canvas or preset.size:
        frame = layout(rgba[..., 3], preset)
        width, height = frame.size
        if width * height > max_pixels:
            asked = f"margin and canvas ask for {width} x {height} pixels"
            raise PermanentError(Code.TOO_LARGE, f"{asked}: more than images allow, {max_pixels}")
        rgba = render(rgba, frame)
    shadow = _make_shadow(rgba[..., 3], preset.shadow) if preset.shadow else None
    if outline is not None:
        border = _make_outline(rgba[..., 3], int(preset.outline.partition(":")[0]))
        rgba = _put_over_layer(rgba, border, outline)
    if background is not None:
        rgba = _put_over_background(rgba, shadow, _cover(background, rgba.shape))
    elif shadow is not None:
        rgba = _put_over_layer(rgba, shadow, np.zeros(3, np.uint8))
    return Cutout(rgba)


def blur_photo(rgb: Pixels, alpha: Pixels, preset: Preset) -> Pixels | None:
    """Return the photo [H, W, 3] blurred, if that is the preset's background.

    The Gaussian is normalized over the background (Knutsson and Westin 1993), so that the subject, whose
    `alpha` [H, W] this is, leaves no halo; beyond the border the outermost pixels continue.
    """
    if not preset.background.startswith(BLUR):
        return None
    sigma = float(preset.background.removeprefix(BLUR))
    height, width = alpha.shape
    factor = max(1, int(sigma / COARSE_SIGMA))
    size = (-(-width // factor), -(-height // factor))

    def blur(plane: Floats) -> Floats:
        small = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        border = cv2.BORDER_REPLICATE
        return np.asarray(cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=border))

    weight = np.asarray(1 + LEAST_WEIGHT - alpha / np.float32(255), np.float32)
    total = blur(weight)
    small = np.empty((*total.shape, 3), np.uint8)
    for i in range(3):
        mean = blur(np.asarray(rgb[..., i] * weight, np.float32)) / total
        small[..., i] = np.clip(np.rint(mean), 0, 255)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def find_subject_box(alpha: Pixels) -> PixelBox | None:
    """Return the box of all solid parts but dust; None if there are none."""
    solid = (alpha > SOLID).astype(np.uint8)
    count, _, parts, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    if count == 1:  # only the background
        return None
    areas = parts[1:, cv2.CC_STAT_AREA]
    lefts, tops, widths, heights, _ = parts[1:][areas >= DUST * areas.max()].T
    left, top = int(lefts.min()), int(tops.min())
    right, bottom = int((lefts + widths).max()), int((tops + heights).max())
    return PixelBox(left, top, right - left, bottom - top)


def count_canvas_pixels(preset: Preset) -> int:
    """Return the pixels that the preset may enlarge an image to; 0 if it does not."""
    size = preset.size if preset.enlarge else ""
    sizes = (_parse_pair(text) for text in (preset.canvas, size) if "x" in text)
    return max((width * height for width, height in sizes), default=0)


def layout(alpha: Pixels, preset: Preset) -> Layout:
    """Apply the preset's crop, margin, canvas, place and size to a cutout with this alpha."""
    height, width = alpha.shape
    box = PixelBox(0, 0, width, height)
    if preset.crop:
        box = find_subject_box(alpha) or box
    margin = round(preset.margin / 100 * max(box.width, box.height))
    box = box.expand(margin, margin, 2 * margin, 2 * margin)
    if ":" in preset.canvas:
        box = _expand_to_aspect(box, *_parse_pair(preset.canvas), preset.place)
    inner = size = (box.width, box.height)
    if "x" in preset.canvas:
        size = _parse_pair(preset.canvas)
        inner = _fit(inner, size)
    elif preset.size:
        fitted = _fit(inner, _parse_pair(preset.size))
        inner = size = fitted if preset.enlarge else min(fitted, inner)  # both of one aspect
    at = _split_space(size[0] - inner[0], size[1] - inner[1], preset.place)
    return Layout(box, inner, at, size)


def render(rgba: Pixels, frame: Layout) -> Pixels:
    """Draw the cutout [H, W, 4] on the frame's canvas, which is transparent around it."""
    piece = _crop(rgba, frame.box)
    if frame.inner != (frame.box.width, frame.box.height):
        piece = _scale(piece, frame.inner)
    if frame.inner == frame.size:
        return piece
    canvas = np.zeros((frame.size[1], frame.size[0], 4), np.uint8)
    (left, top), (width, height) = frame.at, frame.inner
    canvas[top : top + height, left : left + width] = piece
    return canvas


def _make_shadow(alpha: Pixels, opacity: float) -> Plane | None:
    """Return the shadow's opacity: the subject's foot, flattened and blurred, darkest at its end."""
    box = find_subject_box(alpha)
    if box is None:
        return None
    extent, bottom = min(box.width, box.height), box.top + box.height
    foot = alpha[bottom - max(1, round(SHADOW_SOURCE * box.height)) : bottom]
    nearness = np.linspace(0, 1, len(foot) + 1, dtype=np.float32)[1:, None] ** 2
    height = max(1, round(SHADOW_HEIGHT * extent))
    shadow = np.zeros(alpha.shape, np.float32)
    top = bottom - height // 2
    shadow[max(top, 0) : top + height] = (foot * nearness).max(axis=0)
    sigma = max(SHADOW_BLUR * extent, 0.5)
    blurred = cv2.GaussianBlur(shadow, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(blurred * np.float32(opacity / 255), np.float32)


def _make_outline(alpha: Pixels, width: int) -> Plane:
    """Return the outline's opacity: a disc of radius `width` around each half opaque pixel but dust.

    It falls from 1 to 0 within the pixel that the outline's border runs through.
    """
    solid = (alpha >= 128).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0  # the background
    if not areas.any():
        return np.zeros(alpha.shape, np.float32)
    outside = (areas < DUST * areas.max())[parts].astype(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.clip(width + np.float32(0.5) - distance, 0, 1), np.float32)


def _put_over_layer(rgba: Pixels, opacity: Plane, color: Pixels) -> Pixels:
    """Put the cutout over a layer of one color [3], whose opacity is given for each pixel."""

    def mix(pixels: Floats, positions: Positions) -> Floats:
        a = pixels[:, 3:] / np.float32(255)
        under = (1 - a) * opacity.reshape(-1, 1)[positions]
        alpha = a + under
        colors = (a * pixels[:, :3] + under * color.reshape(3)) / np.maximum(alpha, 1e-6)
        return np.concatenate([colors, alpha * 255], axis=1)

    return _mix_pixels(rgba.copy(), (rgba[..., 3] < 255) & (opacity > 0), mix)


def _put_over_background(rgba: Pixels, shadow: Plane | None, background: Pixels) -> Pixels:
    """Put the cutout and its shadow over a background [H, W, 3] or [1, 1, 3]."""
    alpha, out = rgba[..., 3], rgba.copy()
    mixed = alpha < 255
    if shadow is None:  # most pixels, and nothing to compute
        opaque = np.dstack([background, np.full(background.shape[:2], 255, np.uint8)])
        np.copyto(out.view(np.uint32), opaque.view(np.uint32), where=(alpha == 0)[..., None])
        mixed &= alpha > 0

    def mix(pixels: Floats, positions: Positions) -> Floats:
        a = pixels[:, 3:] / np.float32(255)
        light = 1 - a
        if shadow is not None:
            light *= 1 - shadow.reshape(-1, 1)[positions]
        behind = background.reshape(-1, 3)
        colors = a * pixels[:, :3] + light * (behind[positions] if len(behind) > 1 else behind)
        return np.concatenate([colors, np.full_like(a, 255)], axis=1)

    return _mix_pixels(out, mixed, mix)


def _mix_pixels(rgba: Pixels, where: Mask, mix: Callable[[Floats, Positions], Floats]) -> Pixels:
    """Replace the pixels at `where` by what `mix` makes of a block of them [N, 4], in [0, 255]."""
    pixels, positions = rgba.reshape(-1, 4), np.flatnonzero(where)
    for start in range(0, positions.size, BLOCK_PIXELS):
        block = positions[start : start + BLOCK_PIXELS]
        mixed = np.rint(mix(pixels[block].astype(np.float32), block)).astype(np.uint8)
        mixed[mixed[:, 3] == 0] = 0
        pixels[block] = mixed
    return rgba


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


def _parse_pair(text: str) -> tuple[int, int]:
    width, height = re.split("[x:]", text)
    return int(width), int(height)


def _fit(size: tuple[int, int], limits: tuple[int, int]) -> tuple[int, int]:
    """Return the largest (width, height) of the aspect of `size` within `limits`."""
    scale = min(limits[0] / size[0], limits[1] / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _expand_to_aspect(box: PixelBox, width: int, height: int, place: str) -> PixelBox:
    """Return the smallest box around this one with the aspect width to height, rounded up."""
    across = max(0, -(-box.height * width // height) - box.width)
    down = max(0, -(-box.width * height // width) - box.height)
    return box.expand(*_split_space(across, down, place), across, down)


def _split_space(across: int, down: int, place: str) -> tuple[int, int]:
    """Return the columns left of the subject, and the rows above it, of the free ones."""
    left = {"left": 0, "right": across}.get(place, across // 2)
    top = {"top": 0, "bottom": down}.get(place, down // 2)
    return left, top


def _crop(rgba: Pixels, box: PixelBox) -> Pixels:
    """Return the box of the cutout, transparent where it extends beyond."""
    piece = np.zeros((box.height, box.width, 4), np.uint8)
    left, top = max(box.left, 0), max(box.top, 0)
    inside = rgba[top : box.top + box.height, left : box.left + box.width]
    rows, columns = inside.shape[:2]
    piece[top - box.top :, left - box.left :][:rows, :columns] = inside
    return piece


def _scale(rgba: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize with colors weighted by alpha, so that transparent pixels add nothing to an edge.

    Colors under an alpha of 0 or 255 need no weight.
    """
    smaller = size[0] * size[1] < rgba.shape[0] * rgba.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    values = rgba.astype(np.float32)
    pixels, soft = values.reshape(-1, 4), _soft_positions(rgba[..., 3])
    pixels[soft, :3] *= pixels[soft, 3:] / 255
    values = np.asarray(cv2.resize(values, size, interpolation=method), np.float32)
    pixels, soft = values.reshape(-1, 4), _soft_positions(values[..., 3])
    pixels[soft, :3] *= 255 / np.maximum(pixels[soft, 3:], 1e-3)
    pixels[soft[np.rint(pixels[soft, 3]) == 0]] = 0
    return np.asarray(cv2.convertScaleAbs(values), np.uint8)  # the nearest level


def _soft_positions(alpha: Pixels | Plane) -> Positions:
    """Return where an alpha of 0 to 255 is neither."""
    return np.flatnonzero((alpha > 0) & (alpha < 255))
