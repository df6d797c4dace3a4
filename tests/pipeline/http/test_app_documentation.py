"""The examples of infra/docs/http.md do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ...support.http_service import SECONDS, Service
from ...support.source_tree import ROOT

DOCUMENT = ROOT / "infra/docs/http.md"


def test_the_curl_examples_of_the_document_run_as_written(
    service: Service, photo: Callable[..., Path], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("not installed: curl")
    for name in ("photo.jpg", "cup.png"):
        photo(name)
    shell = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    blocks = [block for block in shell if "curl" in block]
    assert len(blocks) == 3
    # Only the address is another one, and the key, which is to be new each time.
    script = "".join(blocks).replace("http://127.0.0.1:8000", service.url)
    script = script.replace("order-4711", f"order-{tmp_path}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "event: end" in done.stdout
    with Image.open(tmp_path / "photo-cutout.png") as cutout:
        assert cutout.mode == "RGBA"
    with Image.open(tmp_path / "cutout.png") as cutout:
        assert (cutout.mode, cutout.size) == ("RGBA", (96, 64))
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert sorted(archive.namelist()) == ["cup.png", "photo.png"]
