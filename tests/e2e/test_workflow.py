"""A ComfyUI workflow in a file takes the place of a preset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Bgpipe

EXAMPLES = Path(__file__).resolve().parents[2] / "infra/examples/comfyui"
NANO = ("--model", "birefnet-nano", "--wait")


@pytest.mark.usefixtures("shared_cluster")
def test_the_example_workflow_asks_for_what_the_preset_asks_for(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(photos / "chelsea.png", folder)
    workflow = ("--workflow", EXAMPLES / "production_bg_removal.json")
    assert bgpipe.records("submit", folder, *NANO, *workflow)[-1]["done"] == 1
    same = bgpipe.records("submit", folder, *NANO, "--preset", "balanced")[-1]
    assert (same["done"], same["skipped"]) == (0, 1)


def test_a_workflow_that_cannot_be_done_ends_the_command_and_says_why(
    bgpipe: Bgpipe, tmp_path: Path
) -> None:
    graph = json.loads((EXAMPLES / "production_bg_removal_api.json").read_text())
    graph["3"]["inputs"]["contrast"] = 9
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"prompt": graph}))
    done = bgpipe("submit", tmp_path, *NANO, "--workflow", bad)
    assert done.returncode == 2
    assert "node 3 (BgpipeRefiner): Value 9.0 bigger than max of 4: contrast" in done.stderr
    bad.write_text("{")
    assert bgpipe("submit", tmp_path, *NANO, "--workflow", bad).returncode == 2
    done = bgpipe("submit", tmp_path, *NANO, "--workflow", bad, "--preset", "raw")
    assert done.returncode == 2
