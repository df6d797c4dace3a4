"""Third-party ComfyUI clients: they submit, wait at the websocket, and fetch the PNG."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from PIL import Image

from ....support.comfyui_client import API, EXAMPLES
from ....support.http_service import SECONDS, Service

NPM = Path(__file__).resolve().parents[3] / "npm"
Photo = Callable[..., Path]


def test_comfy_api_simplified_gets_its_images(
    service: Service, photo: Photo, tmp_path: Path
) -> None:
    titled = copy.deepcopy(API)
    for node in titled.values():
        node["_meta"] = {"title": node["class_type"]}
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(titled))
    api = ComfyApiWrapper(service.url)
    uploaded = api.upload_image(photo("simplified.jpg"))
    workflow = ComfyWorkflowWrapper(str(path))
    workflow.set_node_param("LoadImage", "image", f"{uploaded['subfolder']}/{uploaded['name']}")
    workflow.set_node_param("SaveImage", "filename_prefix", "simplified")
    (found,) = api.queue_and_wait_images(workflow, "SaveImage").items()
    name, data = found
    assert name.startswith("simplified_")
    with Image.open(io.BytesIO(data)) as cutout:
        assert (cutout.format, cutout.mode, cutout.size) == ("PNG", "RGBA", (96, 64))


def test_comfy_ui_client_gets_its_images(
    service: Service, photo: Photo, tmp_path: Path, npm: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    reported = run_node(npm, "cutout.mjs", service, photo("client.jpg"), out)
    assert [file["type"] for file in reported["files"]] == ["output", "temp", "temp"]
    assert reported["entries"] >= 1
    with Image.open(out / reported["files"][0]["filename"]) as cutout:
        assert (cutout.format, cutout.mode, cutout.size) == ("PNG", "RGBA", (96, 64))


@pytest.mark.parametrize("size", [(48, 32), (1600, 1200)])
def test_saintnos_sdk_gets_each_output_and_the_end_once(
    service: Service, photo: Photo, npm: Path, size: tuple[int, int]
) -> None:
    """It looks at the history at a prompt's first event, and at the queue at every status."""
    reported = run_node(npm, "saintno.mjs", service, photo(f"saintno{size[0]}.png", size))
    calls = [call for call in reported["calls"] if not call.startswith("output 6")]
    assert calls[0] == "pending"
    assert [call for call in calls if call.startswith(("output c", "finished", "failed"))] == [
        "output cutout",
        "finished 1",
    ]
    assert reported["mask"].startswith("mask")
    assert reported["settings"] == {}
    assert reported["users"] == {"storage": "server", "migrated": True}
    assert reported["files"] == []


def test_stable_canvas_client_gets_its_images_over_the_websocket_and_by_polling(
    service: Service, photo: Photo, npm: Path
) -> None:
    reported = run_node(npm, "stable_canvas.mjs", service, photo("canvas.png"))
    for urls in (reported["heard"], reported["polled"]):
        data = [httpx2.get(url).content for url in urls if "type=output" in url]
        (mode,) = (Image.open(io.BytesIO(each)).mode for each in data)
        assert mode == "RGBA"


def run_node(npm: Path, script: str, service: Service, *arguments: Path) -> dict[str, Any]:
    """Run a script of tests/npm with the example as its graph; return what it reports."""
    server = service.url.removeprefix("http://")
    done = subprocess.run(
        ["node", NPM / script, server, *arguments],
        input=(EXAMPLES / "production_bg_removal_api.json").read_text(),
        cwd=npm,
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reported: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return reported


@pytest.fixture(scope="session")
def npm(request: pytest.FixtureRequest) -> Path:
    """A folder that has the packages of tests/npm, kept from run to run."""
    if not shutil.which("npm"):
        _missing("npm is not installed")
    folder = Path(request.config.cache.mkdir("npm"))  # type: ignore[union-attr]
    lock = (NPM / "package-lock.json").read_bytes()
    installed = folder / "installed"
    if not installed.exists() or installed.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NPM / name, folder)
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5 * SECONDS,
            check=False,
        )
        if done.returncode:
            _missing(f"the packages of tests/npm cannot be installed: {done.stderr[-500:]}")
        installed.write_bytes(lock)
    return folder


def _missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)
