"""What people see: the cutout on a new background, beside the true one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Pixels

    Colours = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

GROUNDS = ("white", "black", "grey", "checks")

_LEVELS = {"white": 255.0, "black": 0.0, "grey": 128.0}
_CHECKS = (204.0, 255.0)
_SQUARE = 8


def composite_error(
    ours: Pixels, truth: Pixels, ground: Colours, where: Mask | None = None
) -> float:
    """Mean absolute difference, in levels of 255, of two RGBA images laid over `ground`.

    T. Porter and T. Duff, Compositing Digital Images, SIGGRAPH 1984: "over" with straight alpha.
    `where` picks the pixels that count; all do without it.
    """
    difference = np.abs(over(ours, ground) - over(truth, ground)).mean(axis=2)
    return float((difference if where is None else difference[where]).mean(dtype=np.float64))


def over(rgba: Pixels, ground: Colours) -> Colours:
    """float32 [H, W, 3] in [0, 255]; `ground` is that too, or one colour for all pixels."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.asarray(alpha * rgba[..., :3] + (1 - alpha) * ground, np.float32)


def ground(name: str, height: int, width: int) -> Colours:
    """One of GROUNDS."""
    if name != "checks":
        return np.full((height, width, 3), _LEVELS[name], np.float32)
    rows, columns = (np.arange(side) // _SQUARE % 2 for side in (height, width))
    squares = np.where(rows[:, None] == columns, _CHECKS[0], _CHECKS[1])
    return np.repeat(squares[..., None], 3, axis=2).astype(np.float32)
