"""The mask enhancer of ComfyUI-RMBG, beside what the real one computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bgpipe.config.presets import Enhancement
from bgpipe.pipeline.matting.mask_enhancer import enhance

RNG = np.random.default_rng(3)


def step(**inputs: float) -> Enhancement:
    """An enhancement by the node's own input names."""
    return Enhancement(**{name.removesuffix("_output"): value for name, value in inputs.items()})


def read(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return np.asarray(Image.open(path), np.float32) / 255
    (values,) = np.load(path).values()
    return values


def test_every_reference_output_is_met(shared: Path) -> None:
    folder = shared / "golden" / "comfyui"
    index = json.loads((folder / "index.json").read_text())
    in_range = [case for case in index["mask_enhancer"] if case["params"]["sensitivity"] <= 1]
    assert len(in_range) > 70
    for case in in_range:
        mask = read(folder / index["inputs"][case["input"]]["file"])
        found = enhance(mask, step(**case["params"]))
        assert np.abs(found - read(folder / case["file"])).max() < 1e-6, case["file"]


@pytest.mark.parametrize("sigma", [1, 2, 7, 64])
def test_the_blur_is_pillows_to_the_bit(sigma: int) -> None:
    levels = RNG.integers(0, 256, (61, 47), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(levels).filter(ImageFilter.GaussianBlur(sigma)))
    ours = enhance(levels.astype(np.float32) / 255, Enhancement(mask_blur=sigma))
    assert np.array_equal(np.rint(ours * 255).astype(np.uint8), theirs)


def test_nothing_asked_for_changes_nothing() -> None:
    mask = RNG.random((20, 30), np.float32)
    assert np.array_equal(enhance(mask, Enhancement()), mask)


def test_a_lower_sensitivity_makes_the_mask_more_opaque() -> None:
    mask = np.full((4, 4), 0.4, np.float32)
    assert enhance(mask, Enhancement(sensitivity=0.5)).max() == pytest.approx(0.6)
    assert enhance(mask, Enhancement(sensitivity=0.0)).max() == pytest.approx(0.8)


def test_smoothing_and_filling_leave_nothing_soft() -> None:
    mask = RNG.random((40, 40), np.float32)
    for one in (Enhancement(smooth=2), Enhancement(fill_holes=True)):
        assert set(np.unique(enhance(mask, one))) <= {0.0, 1.0}


def test_an_offset_is_a_square() -> None:
    mask = np.zeros((11, 11), np.float32)
    mask[5, 5] = 1
    grown = enhance(mask, Enhancement(mask_offset=3))
    assert np.argwhere(grown).min() == 2
    assert grown.sum() == 49
    assert enhance(grown, Enhancement(mask_offset=-3)).sum() == 1
