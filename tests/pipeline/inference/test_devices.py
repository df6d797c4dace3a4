"""Devices as nvidia-smi lists them; a script on the PATH answers in its place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

UUIDS = ("GPU-11111111-aaaa", "GPU-22222222-bbbb")
GPUS = (f"GPU 0: NVIDIA H200 (UUID: {UUIDS[0]})", f"GPU 1: NVIDIA L4 (UUID: {UUIDS[1]})")
INSTANCES = (
    "  MIG 3g.71gb     Device  0: (UUID: MIG-33333333-cccc)",
    "  MIG 1g.18gb     Device  1: (UUID: MIG-44444444-dddd)",
)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    return listing(tmp_path, GPUS)


def listing(folder: Path, lines: Iterable[str]) -> Path:
    """`folder` with a program in it that lists these devices."""
    (folder / "nvidia-smi").write_text("\n".join(["#!/bin/sh", "cat << END", *lines, "END", ""]))
    (folder / "nvidia-smi").chmod(0o755)
    return folder


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


def test_a_divided_gpu_is_as_many_devices_as_it_has_instances(tmp_path: Path) -> None:
    divided = listing(tmp_path, [GPUS[0], *INSTANCES, GPUS[1]])
    instances = [("cuda:0.0", "MIG-33333333-cccc"), ("cuda:0.1", "MIG-44444444-dddd")]
    assert listed(divided) == [*instances, ("cuda:1", UUIDS[1])]
    assert listed(divided, CUDA_VISIBLE_DEVICES="0") == instances
    assert listed(divided, CUDA_VISIBLE_DEVICES="MIG-44444444-dddd") == instances[1:]


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_worker_whose_device_does_not_compute_gives_up_and_says_so(
    programs: Path, redis_url: str
) -> None:
    path = f"{programs}:{os.environ['PATH']}"
    settings = {"BGPIPE_REDIS_URL": redis_url, "BGPIPE_WORKER__START_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bgpipe.workers", "--device", "cuda:0"],
        env=os.environ | settings | {"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "device does not compute: cuda" in done.stderr
