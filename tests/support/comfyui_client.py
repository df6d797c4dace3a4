"""ComfyUI's interface as scripts use it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from .http_service import SECONDS

EXAMPLES = Path(__file__).resolve().parents[2] / "infra/examples/comfyui"
UI = json.loads((EXAMPLES / "production_bg_removal.json").read_text())
ENDS = {"execution_success", "execution_error", "execution_interrupted"}
API = json.loads((EXAMPLES / "production_bg_removal_api.json").read_text())


class Comfy:
    """The calls of a script that knows ComfyUI."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client

    def upload(self, path: Path, **fields: str) -> dict[str, str]:
        files = {"image": (path.name, path.read_bytes())}
        answer = self.client.post("/upload/image", files=files, data=fields)
        assert answer.status_code == 200, answer.text
        found: dict[str, str] = answer.json()
        return found

    def post(self, prompt: Any, **more: Any) -> httpx2.Response:
        return self.client.post("/prompt", json={"prompt": prompt} | more)

    def prompt(self, prompt: Any, **more: Any) -> str:
        answer = self.post(prompt, **more)
        assert answer.status_code == 200, answer.text
        assert answer.json()["node_errors"] == {}
        name: str = answer.json()["prompt_id"]
        return name

    def wait(self, prompt: str) -> dict[str, Any]:
        """Poll the history, as most scripts do."""
        deadline = time.monotonic() + 2 * SECONDS
        while True:
            found = self.client.get(f"/history/{prompt}").json()
            if found:
                entry: dict[str, Any] = found[prompt]
                return entry
            assert time.monotonic() < deadline, self.client.get("/queue").text
            time.sleep(0.1)

    def image(self, entry: dict[str, Any], node: str = "5", **query: str) -> np.ndarray:
        (shown,) = entry["outputs"][node]["images"]
        answer = self.client.get("/view", params=shown | query)
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(answer.content)) as image:
            return np.asarray(image)


def cutout_of_v1(
    client: httpx2.Client, photo: Path, finished: Callable[[str], dict[str, Any]]
) -> np.ndarray:
    """The cutout of the same photo by the service's own interface, without refinement."""
    upload = client.post("/v1/uploads").json()["upload"]
    files = {"files": (photo.name, photo.read_bytes())}
    client.post(f"/v1/uploads/{upload}/files", files=files)
    order = {"upload": upload, "preset": "raw", "model": "birefnet-nano"}
    job = client.post("/v1/jobs", json=order).json()["job"]
    assert finished(job)["done"] == 1
    answer = client.get(f"/v1/jobs/{job}/items/0/result")
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image)


def events(socket: Any, prompt: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a client, without the status, to the end of the prompt."""
    found: list[tuple[str, dict[str, Any]]] = []
    deadline = time.monotonic() + 2 * SECONDS
    while time.monotonic() < deadline:
        message = json.loads(socket.recv(2 * SECONDS))
        kind, data = message["type"], message["data"]
        if kind in {"status", "feature_flags"}:
            continue
        found.append((kind, data))
        ours = [
            kind for kind, data in found if data["prompt_id"] == prompt and not data.get("node")
        ]
        if "executing" in ours and ENDS.intersection(ours):
            return found
    raise AssertionError(found)
