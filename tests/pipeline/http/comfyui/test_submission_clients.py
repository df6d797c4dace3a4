"""Third-party ComfyUI clients: they submit, wait at the websocket, and fetch the PNG."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from PIL import Image

from ....support.comfyui_client import API, EXAMPLES, Comfy, cutout_of_v1
from ....support.http_service import SECONDS, Service
from ....support.programs import miss, require_packages, require_program

PYPI = ("comfykit==0.1.12", "pycomfy==0.4.0", "comfyui-workflow-templates-json==0.1.123")
TEMPLATE = "comfyui_workflow_templates_json/templates/utility_birefnet_remove_background.json"
COMFYKIT = """
import asyncio, json, sys
from comfykit import ComfyKit

async def main(server, workflow, photo):
    for kind in ("http", "websocket"):
        kit = ComfyKit(comfyui_url=server, executor_type=kind)
        done = await kit.execute(workflow, {"image": photo})
        print(json.dumps([done.status, done.images, done.msg]))

asyncio.run(main(*sys.argv[1:]))
"""
PYCOMFY = """
import json, sys
from pycomfy import ComfyAPI

server, workflow, photo = sys.argv[1:]
with ComfyAPI(server) as client:
    flow = client.load_workflow(workflow)
    flow.set_node(flow.get_nodes_by_class("LoadImage")[0], {"image": photo})
    print(json.dumps([[image.mode, image.size] for image in flow.execute()]))
"""
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


@pytest.mark.slow
def test_comfykit_gets_its_images_by_polling_and_over_the_websocket(
    service: Service, photo: Photo, tmp_path: Path, pypi: Path
) -> None:
    graph = copy.deepcopy(API)
    graph["1"]["_meta"] = {"title": "$image.image!"}
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(graph))
    done = run_python(pypi, COMFYKIT, service.url, workflow, photo("kit.jpg"))
    for status, images, message in map(json.loads, done):
        assert (status, len(images)) == ("completed", 3), message
        assert httpx2.get(images[0]).content.startswith(b"\x89PNG")


@pytest.mark.slow
def test_pycomfy_gets_its_images(
    service: Service, client: httpx2.Client, photo: Photo, pypi: Path
) -> None:
    name = Comfy(client).upload(photo("pycomfy.jpg"), overwrite="true")["name"]
    workflow = EXAMPLES / "production_bg_removal_api.json"
    (line,) = run_python(pypi, PYCOMFY, service.url, workflow, name)
    assert json.loads(line) == [["RGBA", [96, 64]]]


@pytest.mark.slow
def test_the_official_template_gives_the_alpha_of_v1(
    client: httpx2.Client, photo: Photo, pypi: Path, finished: Callable[[str], dict[str, Any]]
) -> None:
    """ComfyUI's own template, unchanged, for a photo of the name that it loads."""
    comfy = Comfy(client)
    path = photo("the_lily_veil.png", (320, 240))
    comfy.upload(path, overwrite="true")
    answer = client.post("/prompt", content=(pypi / TEMPLATE).read_bytes())
    assert (answer.status_code, answer.json()["node_errors"]) == (200, {}), answer.text
    entry = comfy.wait(answer.json()["prompt_id"])
    cutout, mask = comfy.image(entry, "18"), comfy.image(entry, "20")
    reference = cutout_of_v1(client, path, finished)
    assert np.abs(cutout[..., 3].astype(int) - reference[..., 3]).max() <= 1
    assert np.array_equal(mask, cutout[..., 3])


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
    require_program("npm")
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
            miss(f"the packages of tests/npm cannot be installed: {done.stderr[-500:]}")
        installed.write_bytes(lock)
    return folder


def run_python(packages: Path, script: str, *arguments: object) -> list[str]:
    """Run a script with more packages; return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.fixture(scope="session")
def pypi(request: pytest.FixtureRequest) -> Path:
    return require_packages(request.config, "pypi", *PYPI)
