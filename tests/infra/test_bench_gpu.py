"""The measurement of a GPU: on a CPU its logic alone; late and broken steps lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.source_tree import ROOT

# Run as scripts, not installed.
sys.path.insert(0, str(ROOT / "infra" / "bench"))

import gpu

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "infra" / "package")}


def test_a_step_over_its_limit_or_broken_loses_neither_the_others_nor_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    monkeypatch.setitem(gpu.LIMITS, "engine", 0.05)
    broken = ENVIRONMENT | {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "torch.py").write_text("raise ImportError('no torch')")
    gpu.measure(["engine"], 60, "cpu", ENVIRONMENT, out)
    (late,) = json.loads(out.read_text())
    assert (late["step"], late["error"]) == ("engine", "over its limit of 0 s")
    rows = gpu.measure(["machine", "compile"], 60, "cpu", broken, out)
    assert rows == json.loads(out.read_text())
    assert [row["error"] for row in rows] == ["exit code 1: ImportError: no torch"] * 2
    rows = gpu.measure(["machine"], -1, "cpu", ENVIRONMENT, out)
    assert [row["error"] for row in rows] == ["no time left"]


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [ROOT / "infra/bench/gpu", "--device", "cpu", "--seconds", "900", "--out", out],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())
    assert [row["step"] for row in rows if row.get("what") == "whole step"] == list(gpu.LIMITS)
    assert all(len(line) > 20 for line in done.stdout.splitlines())
    (equal,) = (row["equal"] for row in rows if row["what"].startswith("equal bits alone"))
    assert equal
