"""`bgpipe bench`: real forward passes, and real images through a queue of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Bgpipe

QUICK = ("--seconds", "0.1", "--batch", "1", "--precision", "float32", "--size", "0.05")


@pytest.mark.slow
def test_it_measures_the_network_alone_and_whole_images(bgpipe: Bgpipe) -> None:
    model, machine, forward, whole = bgpipe.records("bench", "--model", "birefnet-nano", *QUICK)
    assert model == {"model": "birefnet-nano", "size": [288, 288], "random": False}
    assert machine["machine"]["matrix_peak"]["float32"] > 1e9
    assert machine["machine"]["operations"] > 1e9
    assert forward["forward"]["images_per_second"] > 0
    assert 0 < forward["forward"]["share_of_peak"] < 2
    assert whole["whole"]["megapixels"] == 0.05
    assert whole["whole"]["images_per_second"] > 0
    assert 0 < whole["whole"]["device_busy"] <= 1
    assert {"read", "decode", "infer", "refine", "encode", "write"} <= set(whole["whole"]["stages"])
    assert bgpipe.records("jobs") == []


@pytest.mark.slow
def test_random_weights_replace_missing_ones(bgpipe: Bgpipe) -> None:
    done = bgpipe("bench", "--random", "--model", "birefnet-nano", "--only", "device", *QUICK)
    assert (done.returncode, "random weights" in done.stdout) == (0, True), done.stderr
    assert "float32" in done.stdout


def test_an_unknown_model_is_reported_at_once(bgpipe: Bgpipe) -> None:
    done = bgpipe("bench", "--random", "--model", "no-such-model", *QUICK)
    assert (done.returncode, "no-such-model" in done.stderr) == (2, True)
    assert bgpipe("bench", "--model", "no-such-model", *QUICK).returncode == 2
