"""The network's input, against Pillow's resize, which released checkpoints were trained with."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.networks.preprocess import preprocess


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 900), (900, 1), (37, 50), (301, 517), (96, 64), (1500, 2000)]
)
def test_model_input_is_within_a_level_of_pillows_antialiased_bilinear(shape):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    expected = Image.fromarray(rgb).resize((64, 96), Image.Resampling.BILINEAR)
    found = preprocess(rgb, (96, 64))
    assert (found.dtype, found.shape) == (np.uint8, (96, 64, 3))
    assert np.abs(found - np.asarray(expected, int)).max() <= 1


def test_model_input_takes_a_view_and_gives_pixels_of_its_own():
    rgb = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    found = preprocess(rgb[::2, ::-1], (32, 32))
    assert np.array_equal(found, preprocess(rgb[::2, ::-1].copy(), (32, 32)))
    found[:] = 0
    assert rgb.any()


def test_model_input_takes_pixels_that_cannot_be_written():
    rgb = np.zeros((50, 60, 3), np.uint8)
    rgb.setflags(write=False)
    assert not preprocess(rgb, (32, 32)).any()
