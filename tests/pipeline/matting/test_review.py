"""Flags on finished cutouts: found where a fault was put in, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.matting.cutout import cut_out, keep_own_alpha
from bgpipe.pipeline.matting.review import review
from bgpipe.pipeline.types import DecodedImage, Matte, Preset, ReviewFlag

SETTINGS = load_settings().review
SIZE = 256
EACH = 30
"""Mattes with each fault; as many again have none."""


PLAIN = Preset(foreground=False)


def flags_of(matte, preset=PLAIN, frames=1):
    picture = DecodedImage(np.full((300, 400, 3), 90, np.uint8), frames=frames)
    soft = Matte(np.asarray(matte, np.float32))
    return review(picture, soft, cut_out(picture, soft, preset), preset, SETTINGS)


def blob(random, reach=(0.15, 0.4), at=(0.45, 0.55)):
    """An ellipse with a soft edge, somewhere near the middle."""
    matte = np.zeros((SIZE, SIZE), np.float32)
    centre = tuple(int(SIZE * random.uniform(*at)) for _ in range(2))
    axes = tuple(int(SIZE * random.uniform(*reach)) for _ in range(2))
    cv2.ellipse(matte, centre, axes, random.uniform(0, 180), 0, 360, 1.0, -1)
    return cv2.GaussianBlur(matte, (0, 0), random.uniform(0.6, 3))


def no_subject(random):
    return np.float32(random.uniform(0, 0.3)) * cv2.GaussianBlur(
        random.random((SIZE, SIZE), np.float32), (0, 0), 5
    )


def nearly_full(random):
    matte = np.ones((SIZE, SIZE), np.float32)
    matte[: random.integers(0, 6)] = 0
    return matte


def touching(random):
    matte = blob(random)
    matte[:, : random.integers(120, 200)] = 1
    return matte


def unsure(random):
    return blob(random) * np.float32(random.uniform(0.6, 0.85))


def in_pieces(random):
    matte = np.zeros((SIZE, SIZE), np.float32)
    for corner in range(random.integers(4, 8)):
        at = (40 + corner % 3 * 80, 40 + corner // 3 * 80)
        cv2.circle(matte, at, int(random.integers(10, 25)), 1.0, -1)
    return matte


def soft(random):
    y, x = np.indices((SIZE, SIZE)) - SIZE / 2
    return np.clip(1.2 - np.hypot(y, x) / (SIZE * random.uniform(0.3, 0.45)), 0, 1)


FAULTS = {
    ReviewFlag.NO_SUBJECT: no_subject,
    ReviewFlag.NEARLY_FULL: nearly_full,
    ReviewFlag.TOUCHES_BORDER: touching,
    ReviewFlag.LOW_CONFIDENCE: unsure,
    ReviewFlag.MANY_PIECES: in_pieces,
    ReviewFlag.SOFT_EVERYWHERE: soft,
}


def labelled():
    """Mattes with the one fault that was put into each, or None; `filled-hole` has its own test."""
    random = np.random.default_rng(0)
    for fault, make in FAULTS.items():
        for _ in range(EACH):
            yield make(random), fault
    for _ in range(EACH * len(FAULTS)):
        yield blob(random), None


def test_precision_and_recall_on_a_labelled_set(capsys):
    found = [(flags_of(matte), fault) for matte, fault in labelled()]
    with capsys.disabled():
        print(f"\nflags on {len(found)} labelled mattes")
        for flag in FAULTS:
            hits = sum(flag in flags and fault == flag for flags, fault in found)
            precision = hits / sum(flag in flags for flags, _ in found)
            recall = hits / EACH
            print(f"{flag:16} precision {precision:.2f}  recall {recall:.2f}")
            assert precision >= 0.95
            assert recall >= 0.95
    clean = [flags for flags, fault in found if fault is None]
    assert sum(map(bool, clean)) <= 0.02 * len(clean)


def ring(hole):
    matte = np.zeros((SIZE, SIZE), np.float32)
    cv2.circle(matte, (128, 128), 90, 1.0, -1)
    cv2.circle(matte, (128, 128), hole, 0.0, -1)
    return matte


@pytest.mark.parametrize(
    ("hole", "preset", "expected"),
    [
        (7, Preset(fill_holes=True), (ReviewFlag.FILLED_HOLE,)),
        (7, PLAIN, ()),
        (7, Preset(fill_holes=True, invert=True), ()),
        (40, Preset(fill_holes=True), ()),
    ],
)
def test_a_hole_that_was_filled_is_worth_a_look(hole, preset, expected):
    assert flags_of(ring(hole), preset) == expected


def test_further_frames_are_named():
    assert flags_of(blob(np.random.default_rng(0)), frames=3) == (ReviewFlag.MORE_FRAMES,)


def test_an_empty_matte_has_one_flag_and_several_faults_have_several():
    assert flags_of(np.zeros((64, 64))) == (ReviewFlag.NO_SUBJECT,)
    assert flags_of(np.full((64, 64), 0.6)) == (
        ReviewFlag.NEARLY_FULL,
        ReviewFlag.LOW_CONFIDENCE,
    )


def test_switched_off_no_check_raises_but_that_of_an_empty_matte():
    off = SETTINGS.model_copy(
        update={
            "least_subject": 0,
            "most_subject": 1,
            "border": 1,
            "confidence": 0,
            "most_pieces": 1000,
            "soft": 1,
        }
    )
    picture = DecodedImage(np.zeros((64, 64, 3), np.uint8))
    for level, expected in ((0, (ReviewFlag.NO_SUBJECT,)), (0.6, ()), (1, ())):
        matte = Matte(np.full((64, 64), level, np.float32))
        assert review(picture, matte, cut_out(picture, matte, PLAIN), PLAIN, off) == expected


def test_a_picture_that_brought_its_own_alpha_has_no_matte_to_judge():
    picture = DecodedImage(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), frames=2)
    assert review(picture, None, keep_own_alpha(picture), PLAIN, SETTINGS) == (
        ReviewFlag.MORE_FRAMES,
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2000, 3)])
def test_any_size_of_matte_can_be_reviewed(shape):
    assert ReviewFlag.NEARLY_FULL in flags_of(np.ones(shape))
