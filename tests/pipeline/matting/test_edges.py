"""Trimap, tiles, and what is made of a network's answers for the tiles of an edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpipe.pipeline.matting.edges import (
    BACKGROUND,
    STRIDE,
    SUBJECT,
    TILES_AT_ONCE,
    UNKNOWN,
    make_trimap,
    solve_edges,
    split_tiles,
)
from bgpipe.pipeline.types import Matte, Matting

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, Plane

MATTING = Matting("m", "0" * 64, (64, 96), band=0.05)


def disc(height: int, width: int, softness: float = 2.0) -> Plane:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    return np.clip((min(height, width) / 4 - distance) / softness + 0.5, 0, 1).astype(np.float32)


class Red:
    """Answers with the red channel; keeps what it was asked."""

    def __init__(self) -> None:
        self.groups: list[Sequence[Pixels]] = []

    def __call__(self, group: Sequence[Pixels]) -> list[Matte]:
        self.groups.append(group)
        return [Matte(tile[..., 0] / np.float32(255)) for tile in group]


@pytest.mark.parametrize("side", [200, 800])
def test_the_unknown_band_grows_with_the_image(side: int) -> None:
    trimap = make_trimap(disc(side, side), band=0.05)
    across = trimap[side // 2, : side // 2]
    unknown = np.flatnonzero(across == UNKNOWN)
    assert unknown.size == np.ptp(unknown) + 1
    assert unknown.size == pytest.approx(2 * 0.05 * side, abs=5)
    assert abs(unknown.mean() - side / 4) < 2
    assert set(across[: unknown[0]]) == {BACKGROUND}
    assert set(across[unknown[-1] + 1 :]) == {SUBJECT}


def test_a_hard_edge_is_as_unknown_as_a_soft_one() -> None:
    matte = np.zeros((100, 100), np.float32)
    matte[:, 50:] = 1
    assert list(np.flatnonzero(make_trimap(matte, 0.03)[0] == UNKNOWN)) == list(range(46, 54))


def test_a_matte_without_an_edge_has_no_band() -> None:
    assert (make_trimap(np.ones((40, 40), np.float32), 0.05) == SUBJECT).all()
    assert (make_trimap(np.zeros((40, 40), np.float32), 0.05) == BACKGROUND).all()


@given(
    shape=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    size=st.tuples(st.sampled_from([32, 64, 160]), st.sampled_from([32, 96])),
)
def test_tiles_cover_the_image_and_their_shares_add_up_to_one(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    total = np.zeros(shape, np.float32)
    shapes = set()
    for tile in split_tiles(shape, size):
        padded = tile.cut(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8))
        shapes.add(padded.shape)
        tile.accumulate(np.ones(padded.shape[:2], np.float32), total)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    ((height, width, _),) = shapes
    assert (height % STRIDE, width % STRIDE) == (0, 0)
    assert height <= size[0]
    assert width <= size[1]


@pytest.mark.parametrize("shape", [(50, 70), (64, 96), (333, 501)])
def test_the_band_is_as_answered_and_what_is_known_is_0_or_1(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    matte = disc(*shape)
    solved = solve_edges(rgb, matte, MATTING, Red())
    trimap = make_trimap(matte, MATTING.band)
    band = trimap == UNKNOWN
    np.testing.assert_allclose(solved[band], rgb[..., 0][band] / 255, atol=1e-5)
    assert set(np.unique(solved[~band])) == {0, 1}
    assert np.array_equal(solved[~band] == 1, trimap[~band] == SUBJECT)


def test_only_tiles_with_a_piece_of_the_band_are_asked_for_and_few_at_once() -> None:
    asked = Red()
    solve_edges(np.zeros((1000, 1400, 3), np.uint8), disc(1000, 1400), MATTING, asked)
    everything = len(split_tiles((1000, 1400), MATTING.size))
    count = sum(map(len, asked.groups))
    assert TILES_AT_ONCE < count < everything / 2
    assert max(map(len, asked.groups)) == TILES_AT_ONCE
    for tile in (tile for group in asked.groups for tile in group):
        assert tile.shape == (*MATTING.size, 4)
        assert (tile[..., 3] == UNKNOWN).any()


@pytest.mark.parametrize("level", [0.0, 0.6, 1.0])
def test_where_there_is_nothing_to_go_by_the_matte_stays(level: float) -> None:
    asked = Red()
    matte = np.full((20, 30), level, np.float32)
    solved = solve_edges(np.zeros((40, 60, 3), np.uint8), matte, MATTING, asked)
    assert (solved == np.float32(level)).all()
    assert solved.shape == (40, 60)
    assert not asked.groups


def test_answers_that_change_slowly_leave_no_seam() -> None:
    """Each tile is wrong by another constant: blended, neighbouring pixels differ by little of it."""
    errors = iter(np.random.default_rng(1).uniform(0.2, 0.8, 1000))
    ones = [np.full(MATTING.size, error, np.float32) for error in errors]
    answers = iter(ones)
    matte = cv2.GaussianBlur(disc(300, 400), (0, 0), 20)
    solved = solve_edges(
        np.zeros((300, 400, 3), np.uint8),
        matte,
        MATTING,
        lambda group: [Matte(next(answers)) for _ in group],
    )
    band = make_trimap(matte, MATTING.band) == UNKNOWN
    steps = np.abs(np.diff(solved, axis=1))[band[:, 1:] & band[:, :-1]]
    assert steps.max() < 0.6 / (0.25 * 64) * 2
