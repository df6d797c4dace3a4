"""Operators beside those of ComfyUI-RMBG's mask enhancer, which users know.

Where we differ, and why, is in infra/docs/quality.md: discs instead of squares, a blur that leaves
hard edges alone, and holes that are filled only while they are small.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.matting.morphology import dilate, erode, fill_holes
from bgpipe.pipeline.matting.refine import refine
from bgpipe.pipeline.types import Preset

LEVEL = 1 / 255
ON_8_BITS = ["disc_hair", "holes", "border"]


@pytest.fixture
def folder(shared: Path) -> Path:
    return shared / "golden" / "comfyui"


def read(path: Path) -> np.ndarray:
    if path.with_suffix(".png").exists():
        return np.asarray(Image.open(path.with_suffix(".png")), np.float32) / 255
    (values,) = np.load(path.with_suffix(".npz")).values()
    return values


@pytest.mark.parametrize("name", ["disc_hair", "holes", "ramp8", "soft_float", "ramp_float"])
def test_invert_is_the_same(folder, name):
    inverted = refine(read(folder / f"in_{name}"), Preset(invert=True))
    assert np.abs(inverted - read(folder / f"me_{name}__invert")).max() < 1e-6


@pytest.mark.parametrize("sigma", [1, 4])
def test_blur_is_the_same_where_the_edge_is_soft(folder, sigma):
    """Theirs is three box filters on 8 bits, which come within three levels of a Gaussian."""
    blurred = refine(read(folder / "in_disc_hair"), Preset(blur=sigma))
    assert np.abs(blurred - read(folder / f"me_disc_hair__blur_{sigma}")).max() < 3 * LEVEL


@pytest.mark.parametrize("name", ON_8_BITS)
@pytest.mark.parametrize("offset", [5, -5])
def test_an_offset_reaches_as_far_along_rows_and_columns(folder, name, offset):
    matte, theirs = read(folder / f"in_{name}"), read(folder / f"me_{name}__offset_{offset:+d}")
    ours = dilate(matte, offset) if offset > 0 else erode(matte, -offset)
    assert extent(ours) == extent(theirs)


@pytest.mark.parametrize("name", ON_8_BITS)
@pytest.mark.parametrize("offset", [5, -5])
def test_an_offset_lies_between_the_squares_inside_and_around_its_disc(folder, name, offset):
    matte, around = read(folder / f"in_{name}"), read(folder / f"me_{name}__offset_{offset:+d}")
    inner = np.ones((7, 7), np.uint8)  # a square of 3 to each side fits into a disc of 5
    if offset > 0:
        ours, inside = dilate(matte, offset), cv2.dilate(matte, inner)
        assert (inside <= ours).all()
        assert (ours <= around).all()
    else:
        ours, inside = erode(matte, -offset), cv2.erode(matte, inner)
        assert (around <= ours).all()
        assert (ours <= inside).all()


@pytest.mark.parametrize("name", ["disc_hair", "border", "ramp8", "holes", "soft_float"])
def test_fill_holes_fills_the_same_holes_unless_they_are_large(folder, name):
    binary = (read(folder / f"in_{name}") >= LEVEL).astype(np.float32)
    theirs, ours = read(folder / f"me_{name}__fill_holes"), fill_holes(binary)
    _, left, sizes, _ = cv2.connectedComponentsWithStats((ours != theirs).astype(np.uint8))
    assert (theirs >= ours).all()
    assert (sizes[1:, cv2.CC_STAT_AREA] > 0.01 * binary.sum()).all()
    assert np.array_equal(left > 0, (theirs > 0) & (binary == 0) & (ours == 0))


def extent(plane: np.ndarray) -> list[tuple[int, int]]:
    """First and last column, and row, of the mask."""
    lines = [np.flatnonzero((plane > 0.5).any(axis=axis)) for axis in (0, 1)]
    return [(int(at[0]), int(at[-1])) for at in lines]
