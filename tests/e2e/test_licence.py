"""Terms of a model: nothing is pulled before a user accepts them, and a worker never does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from safetensors.torch import save

from ..support.birefnet_weights import tiny_network
from ..support.hub import LoopbackHub, serving

if TYPE_CHECKING:
    from .conftest import Bgpipe

NAME, REPO, COMMIT = "rmbg-2.0", "briaai/RMBG-2.0", "5df4c9c76d8170882c34f6986e848ee07fd0ba43"
TERMS = "non-commercial use only"
ACCEPT = ("--accept-licence", NAME)


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    weights = save(dict(tiny_network("swin_v1_l").state_dict()))
    with serving(LoopbackHub(REPO, {COMMIT: weights})) as hub:
        yield hub


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(6):  # a job is paused by refusals in a row
        Image.new("RGB", (64, 48), "navy").save(folder / f"{index}.png")
    return folder


def test_a_command_that_would_pull_ends_with_the_terms(
    bgpipe: Bgpipe, hub: LoopbackHub, photos: Path
) -> None:
    for command in (("submit", photos, "--model", NAME), ("models", "pull", NAME)):
        done = bgpipe(*command, HF_ENDPOINT=hub.url)
        assert (done.returncode, TERMS in done.stderr) == (2, True), done.stderr
        assert f"--accept-licence {NAME}" in done.stderr
    assert hub.asked == []
    assert bgpipe("models", "pull", NAME, *ACCEPT, HF_ENDPOINT=hub.url).returncode == 0
    assert bgpipe("models", "path", NAME).returncode == 0  # accepted once, with no hub


def test_a_line_in_the_settings_accepts_too(bgpipe: Bgpipe, hub: LoopbackHub) -> None:
    (bgpipe.home / "bgpipe.toml").write_text(f'[model]\naccept_licences = ["{NAME}"]\n')
    assert bgpipe("models", "pull", NAME, HF_ENDPOINT=hub.url).returncode == 0


@pytest.mark.usefixtures("shared_cluster")
def test_a_worker_that_has_not_the_weights_pauses_the_job_with_the_terms(
    bgpipe: Bgpipe, hub: LoopbackHub, photos: Path
) -> None:
    order = ("submit", photos, "--model", NAME, *ACCEPT, "--detach", "--job", "gated")
    done = bgpipe(*order, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    asked = len(hub.asked)
    deadline = time.monotonic() + 120
    while TERMS not in (status := bgpipe("status", "gated").stdout):
        assert time.monotonic() < deadline, status
        time.sleep(0.2)
    assert "paused" in status
    assert len(hub.asked) == asked


def test_the_models_are_shown_within_100_columns(bgpipe: Bgpipe) -> None:
    records = {record["name"]: record for record in bgpipe.records("models", "list")}
    shown = bgpipe("models", "list", COLUMNS="100").stdout
    assert max(map(len, shown.splitlines())) <= 100
    assert all(name in shown for name in records)
    assert records[NAME]["commercial"] == "no"
    info = bgpipe("models", "info", NAME, COLUMNS="100").stdout
    assert max(map(len, info.splitlines())) <= 100
    for text in (REPO, "CC BY-NC 4.0", TERMS, *records[NAME]["sources"]):
        assert text in " ".join(info.split())
    assert bgpipe("models", "info", "birefnet-huge").returncode == 2
