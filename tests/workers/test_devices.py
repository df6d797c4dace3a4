"""Devices as nvidia-smi lists them; a script on the PATH answers in its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

UUIDS = ("GPU-11111111-aaaa", "GPU-22222222-bbbb")
LISTING = f"0, {UUIDS[0]}, NVIDIA H200\n1, {UUIDS[1]}, NVIDIA L4\n"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{LISTING}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    return tmp_path


def listed(path: Path | str, **environment: str) -> list[tuple[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--list-devices"],
        env={"PATH": f"{path}:/bin"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(device["name"], device["uuid"]) for device in found]


def test_every_gpu_is_found_with_the_uuid_that_pins_it(programs: Path) -> None:
    assert listed(programs) == [("cuda:0", UUIDS[0]), ("cuda:1", UUIDS[1])]


@pytest.mark.parametrize("visible", ["1", "GPU-22222222-bbbb", "GPU-22222222"])
def test_a_gpu_that_the_environment_hides_is_left_alone(programs: Path, visible: str) -> None:
    assert listed(programs, CUDA_VISIBLE_DEVICES=visible) == [("cuda:1", UUIDS[1])]


def test_without_a_gpu_the_cpu_is_the_device(tmp_path: Path, programs: Path) -> None:
    assert listed(tmp_path / "nothing") == [("cpu", "")]
    assert listed(programs, CUDA_VISIBLE_DEVICES="") == [("cpu", "")]


def test_a_driver_that_fails_is_reported_and_not_taken_for_no_gpu(programs: Path) -> None:
    (programs / "nvidia-smi").write_text("#!/bin/sh\necho 'driver mismatch'; exit 18\n")
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--list-devices"],
        env=os.environ | {"PATH": f"{programs}:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "driver mismatch" in done.stderr
