"""The expected IoU of a matte: lower with each sign of doubt, and the same at any size of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bgpipe.pipeline.matting.score import SIGNS, expected_iou, measure, read_model
from bgpipe.pipeline.types import Matte

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Plane


def disc(side: int = 288, radius: float = 0.3, softness: float = 0.01) -> Plane:
    """A disc in the middle, whose edge is `softness` wide, as shares of the side."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    return np.clip((radius - np.hypot(x, y)) / softness + 0.5, 0, 1).astype(np.float32)


def score(alpha: Plane, coarse: Plane) -> float:
    expected = expected_iou(Matte(alpha, coarse))
    assert expected is not None
    return expected


GOOD = score(disc(), disc(36))


@pytest.mark.parametrize(
    ("alpha", "coarse"),
    [
        (disc(softness=0.4), disc(36)),
        (np.maximum(disc(), 0.3), disc(36)),
        (disc(), disc(36, softness=0.4)),
        (disc(), disc(36, radius=0.2)),
        (disc(), disc(36, radius=0.4)),
        (np.zeros((288, 288), np.float32), disc(36)),
    ],
    ids=["soft", "doubtful ground", "coarse soft", "coarse smaller", "coarse larger", "empty"],
)
def test_doubt_and_disagreement_lower_the_score(alpha: Plane, coarse: Plane) -> None:
    assert score(alpha, coarse) < GOOD
    assert 0 <= score(alpha, coarse) <= 1


@pytest.mark.parametrize("side", [1024, 2048])
def test_the_score_does_not_depend_on_the_size_of_the_model(side: int) -> None:
    assert score(disc(side), disc(side // 8)) == pytest.approx(GOOD, abs=0.03)


def test_without_a_coarse_matte_there_is_no_score() -> None:
    assert expected_iou(Matte(disc())) is None
    assert expected_iou(Matte(disc(), np.full((36, 36), 0.5, np.float32))) is None


def test_the_fitted_model_has_a_row_for_each_sign() -> None:
    assert tuple(read_model()["signs"]) == SIGNS
    assert measure(disc(), disc(36)).shape == (len(SIGNS),)
