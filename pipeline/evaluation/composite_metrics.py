"""Visible error of a cutout: its difference from the true one on new backgrounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Pixels

    Colors = npt.NDArray[np.float32]
    """float32 [H, W, 3] in [0, 255]."""
    Mask = npt.NDArray[np.bool_]

BACKGROUNDS = ("white", "black", "grey", "checks")

_LEVELS = {"white": 255.0, "black": 0.0, "grey": 128.0}
_CHECKS = (204.0, 255.0)
_SQUARE = 8


def composite_error(
    cutout: Pixels, truth: Pixels, background: Colors, where: Mask | None = None
) -> float:
    """Mean absolute difference of two RGBA images over `background`, in levels of 255.

    `where` restricts it to some pixels.
    """
    difference = np.abs(composite_over(cutout, background) - composite_over(truth, background))
    error = difference.mean(axis=2)
    return float((error if where is None else error[where]).mean(dtype=np.float64))


def composite_over(rgba: Pixels, background: Colors) -> Colors:
    """Composite with "over", straight alpha (T. Porter and T. Duff, Compositing Digital Images, 1984)."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.asarray(alpha * rgba[..., :3] + (1 - alpha) * background, np.float32)


def make_background(name: str, height: int, width: int) -> Colors:
    """Return one of BACKGROUNDS."""
    if name != "checks":
        return np.full((height, width, 3), _LEVELS[name], np.float32)
    rows, columns = (np.arange(side) // _SQUARE % 2 for side in (height, width))
    squares = np.where(rows[:, None] == columns, _CHECKS[0], _CHECKS[1])
    return np.repeat(squares[..., None], 3, axis=2).astype(np.float32)
