"""The box of a subject in its cutout, and its position on a canvas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Pixels, Preset

    Alpha = npt.NDArray[np.uint8]

SOLID = 10
"""Alpha above which a pixel belongs to the subject; below is the haze of a soft matte."""
DUST = 0.005
"""Share of the largest part's area below which a part of the subject is dust."""


@dataclass(frozen=True, slots=True)
class PixelBox:
    """Columns and rows of the source; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def expand(self, left: int, top: int, right: int, bottom: int) -> PixelBox:
        return PixelBox(self.left - left, self.top - top, self.right + right, self.bottom + bottom)


@dataclass(frozen=True, slots=True)
class Layout:
    """A box of the source, which may extend beyond it, scaled to `inner` on a canvas of `size`.

    Sizes are (width, height); `at` is the position of the scaled box's upper left corner.
    """

    box: PixelBox
    inner: tuple[int, int]
    at: tuple[int, int]
    size: tuple[int, int]


def find_subject_box(alpha: Alpha) -> PixelBox | None:
    """Return the box of all solid parts but dust; None if there are none."""
    solid = (alpha > SOLID).astype(np.uint8)
    count, _, parts, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
    if count == 1:  # only the background
        return None
    areas = parts[1:, cv2.CC_STAT_AREA]
    large = parts[1:][areas >= DUST * areas.max()]
    left, top = large[:, cv2.CC_STAT_LEFT], large[:, cv2.CC_STAT_TOP]
    right, bottom = left + large[:, cv2.CC_STAT_WIDTH], top + large[:, cv2.CC_STAT_HEIGHT]
    return PixelBox(int(left.min()), int(top.min()), int(right.max()), int(bottom.max()))


def count_canvas_pixels(preset: Preset) -> int:
    """Return the pixels of the preset's canvas; 0 unless it has a fixed size."""
    if "x" not in preset.canvas:
        return 0
    width, height = _parse_pair(preset.canvas, "x")
    return width * height


def layout(alpha: Alpha, preset: Preset) -> Layout:
    """Apply the preset's crop, margin, canvas and place to a cutout with this alpha."""
    height, width = alpha.shape
    whole = PixelBox(0, 0, width, height)
    box = (find_subject_box(alpha) or whole) if preset.crop else whole
    margin = round(preset.margin / 100 * max(box.width, box.height))
    box = box.expand(margin, margin, margin, margin)
    if ":" in preset.canvas:
        box = _expand_to_aspect(box, *_parse_pair(preset.canvas, ":"), preset.place)
    size = (box.width, box.height)
    if "x" not in preset.canvas:
        return Layout(box, size, (0, 0), size)
    canvas = _parse_pair(preset.canvas, "x")
    scale = min(canvas[0] / box.width, canvas[1] / box.height)
    inner = (max(1, round(box.width * scale)), max(1, round(box.height * scale)))
    at = _split_space(canvas[0] - inner[0], canvas[1] - inner[1], preset.place)
    return Layout(box, inner, at, canvas)


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


def _parse_pair(text: str, separator: str) -> tuple[int, int]:
    width, _, height = text.partition(separator)
    return int(width), int(height)


def _expand_to_aspect(box: PixelBox, width: int, height: int, place: str) -> PixelBox:
    """Return the smallest box around this one with the aspect width to height, rounded up."""
    missing_width = max(0, -(-box.height * width // height) - box.width)
    missing_height = max(0, -(-box.width * height // width) - box.height)
    left, top = _split_space(missing_width, missing_height, place)
    return box.expand(left, top, missing_width - left, missing_height - top)


def _split_space(across: int, down: int, place: str) -> tuple[int, int]:
    """Return the columns left of the subject, and the rows above it, of the free ones."""
    left = {"left": 0, "right": across}.get(place, across // 2)
    top = {"top": 0, "bottom": down}.get(place, down // 2)
    return left, top


def _crop(rgba: Pixels, box: PixelBox) -> Pixels:
    """Return the box of the cutout, transparent where it extends beyond."""
    height, width = rgba.shape[:2]
    piece = np.zeros((box.height, box.width, 4), np.uint8)
    left, top = max(box.left, 0), max(box.top, 0)
    right, bottom = min(box.right, width), min(box.bottom, height)
    piece[top - box.top : bottom - box.top, left - box.left : right - box.left] = rgba[
        top:bottom, left:right
    ]
    return piece


def _scale(rgba: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize with colors weighted by alpha, so that transparent pixels add nothing to an edge."""
    smaller = size[0] * size[1] < rgba.shape[0] * rgba.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    values = rgba.astype(np.float32)
    values[..., :3] *= values[..., 3:] / 255
    values = np.asarray(cv2.resize(values, size, interpolation=method), np.float32)
    alpha = np.rint(values[..., 3:])
    values[..., :3] *= 255 / np.maximum(values[..., 3:], 1e-3)
    values[..., 3:] = alpha
    values[alpha[..., 0] == 0] = 0
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
