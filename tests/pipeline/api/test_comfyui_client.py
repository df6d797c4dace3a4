"""The Python class over a server's queue."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.api import BackgroundRemovalAPI, BackgroundRemover
from bgpipe.pipeline.errors import UsageError

from ...support.http_service import Service
from ...support.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "infra/examples/comfyui/production_bg_removal.json"
Photo = Callable[..., Path]


@pytest.fixture
def api(service: Service) -> Iterator[BackgroundRemovalAPI]:
    address = urlsplit(service.url)
    api = BackgroundRemovalAPI(address.hostname or "", address.port or 0, EXAMPLE, timeout=60)
    yield api
    api.close()


def test_a_photo_becomes_the_cutout_that_this_process_would_make(
    api: BackgroundRemovalAPI, photo: Photo, tmp_path: Path
) -> None:
    path = photo("remote.png")
    ok, job = api.process_image(path, output_prefix="remote/cup")
    assert ok, job
    (saved,) = api.save(job, tmp_path / "cutouts")
    with Image.open(saved) as cutout, Image.open(path) as source:
        ours = BackgroundRemover("birefnet-nano", "balanced", device="cpu")(source)
        difference = np.asarray(cutout).astype(int) - np.asarray(ours)
    assert np.abs(difference).max() <= 2  # threads sum in another order


def test_the_import_line_of_comfyui_scripts_works_anywhere_and_loads_no_torch(
    tmp_path: Path,
) -> None:
    script = (
        "import sys; from bg_removal_api import BackgroundRemovalAPI as api; "
        "from bgpipe.pipeline.api import BackgroundRemovalAPI as ours; "
        "print(api is ours, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_failures_are_failures(api: BackgroundRemovalAPI, photo: Photo, tmp_path: Path) -> None:
    data = bytearray(photo("whole.png", (640, 480)).read_bytes())
    data[len(data) // 2] ^= 0xFF
    broken = tmp_path / "broken.png"
    broken.write_bytes(data)
    text = tmp_path / "text.png"
    text.write_text("no photo")
    batch = api.process_batch([photo("good.png"), broken, text, "never-uploaded.png"])
    assert (batch["total"], batch["succeeded"], batch["failed"]) == (4, 1, 3)
    good, failed, refused, unknown = batch["details"]
    assert good["success"]
    assert "E_TRUNCATED" in failed["result"]
    assert "no image" in refused["result"] or "not" in refused["result"]
    assert "Invalid image file: never-uploaded.png" in unknown["result"]


def test_what_is_known_of_the_server(api: BackgroundRemovalAPI, tmp_path: Path) -> None:
    assert api.health_check()
    assert "ram_total" in api.get_system_stats()["system"]
    unreachable = BackgroundRemovalAPI("127.0.0.1", free_port(), EXAMPLE)
    assert not unreachable.health_check()
    ok, why = unreachable.process_image("x.jpg")
    unreachable.close()
    assert (ok, "Connect" in why) == (False, True)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"1": {"class_type": "LoadImage"}}))
    for path in (bad, tmp_path / "missing.json"):
        with pytest.raises(UsageError):
            BackgroundRemovalAPI(workflow_path=path)


def test_the_example_of_the_documents_runs(service: Service, photo: Photo, tmp_path: Path) -> None:
    photo("photo.jpg")
    shutil.copy(EXAMPLE, tmp_path)
    text = (ROOT / "infra/docs/python.md").read_text()
    blocks = (block.split("```")[0] for block in text.split("```python\n")[1:])
    example = next(block for block in blocks if "BackgroundRemovalAPI" in block)
    done = subprocess.run(
        [sys.executable, "-c", example.replace("8188", str(urlsplit(service.url).port))],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 1\n" in done.stdout
    assert list((tmp_path / "cutouts").glob("cutout_*.png"))
