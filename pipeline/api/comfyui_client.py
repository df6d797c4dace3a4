"""Cutouts by a server's queue, with the calls of the Python class that scripts for ComfyUI use."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import httpx2

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.ui_format import is_ui_format, to_graph
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.comfyui.graph import Graph, Json


class Detail(TypedDict):
    """How one image of a batch ended. `result` is the job's id, or what went wrong."""

    image: str
    success: bool
    result: str


class Batch(TypedDict):
    """total = succeeded + failed; the details are in the order of the images."""

    total: int
    succeeded: int
    failed: int
    details: list[Detail]


class BackgroundRemovalAPI:
    """Talks to `bgpipe serve` as to ComfyUI. What failed is told as failed.

    Example:
        api = BackgroundRemovalAPI("127.0.0.1", 8188, "production_bg_removal.json")
        ok, job = api.process_image("photo.jpg", output_prefix="cutout")
        if ok:
            print(api.save(job, "cutouts"))

    """

    def __init__(
        self,
        comfy_host: str = "127.0.0.1",
        comfy_port: int = 8188,
        workflow_path: str | Path = "production_bg_removal.json",
        timeout: float = 300.0,
        *,
        key: str = "",
    ) -> None:
        """Read the workflow; `timeout` is that of one request in seconds, `key` an API key.

        Raises:
            UsageError: the workflow cannot be read, or has no LoadImage and SaveImage.

        """
        self._workflow = _workflow(Path(workflow_path))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        address = f"http://{comfy_host}:{comfy_port}"
        self._client = httpx2.Client(base_url=address, headers=headers, timeout=timeout)

    def process_image(
        self,
        image_filename: str | Path,
        output_prefix: str = "bg_removed",
        poll_interval: float = 0.5,
        max_retries: int = 600,
    ) -> tuple[bool, str]:
        """Whether a cutout was made, and the job's id, or what went wrong.

        `image_filename` is a file of this machine, or the name of a photo that was uploaded. The
        job is looked at `max_retries` times, `poll_interval` seconds apart.
        """
        posted, result = self._post(image_filename, output_prefix)
        return self._wait(result, poll_interval, max_retries) if posted else (False, result)

    def process_batch(
        self,
        image_files: Sequence[str | Path],
        output_prefix: str = "bg_removed",
        delay_between: float = 0.0,
        poll_interval: float = 0.5,
        max_retries: int = 600,
    ) -> Batch:
        """Post all images, `delay_between` seconds apart, and see each to its end."""
        posted = []
        for place, image in enumerate(image_files):
            if place:
                time.sleep(delay_between)
            posted.append((str(image), *self._post(image, output_prefix)))
        details: list[Detail] = []
        for image, success, result in posted:
            ended = self._wait(result, poll_interval, max_retries) if success else (False, result)
            details.append({"image": image, "success": ended[0], "result": ended[1]})
        succeeded = sum(detail["success"] for detail in details)
        return {
            "total": len(details),
            "succeeded": succeeded,
            "failed": len(details) - succeeded,
            "details": details,
        }

    def save(self, job: str, folder: str | Path) -> list[Path]:
        """Fetch what a job saved into `folder`, which is made if need be; returns the files.

        Raises:
            httpx2.HTTPError: the server is away, or no longer has them.

        """
        home = Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        paths = []
        for output in self._history(job)["outputs"].values():
            for image in output["images"]:
                if image["type"] == "output":
                    answer = self._client.get("/view", params=image).raise_for_status()
                    path = home / Path(image["filename"]).name
                    path.write_bytes(answer.content)
                    paths.append(path)
        return paths

    def get_system_stats(self) -> dict[str, Json]:
        """Of the server and its workers.

        Raises:
            httpx2.HTTPError: the server is away.

        """
        stats: dict[str, Json] = self._client.get("/system_stats").raise_for_status().json()
        return stats

    def health_check(self) -> bool:
        """Whether the server answers."""
        try:
            return self._client.get("/system_stats").is_success
        except httpx2.HTTPError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _post(self, image: str | Path, prefix: str) -> tuple[bool, str]:
        """Whether the prompt was taken, and its id, or what is wrong."""
        try:
            graph = self._about(self._upload(Path(image)), prefix)
            answer = self._client.post("/prompt", json={"prompt": graph})
            if answer.is_success:
                return True, answer.json()["prompt_id"]
            return False, f"HTTP {answer.status_code}: {_reason(answer)}"
        except (httpx2.HTTPError, OSError) as error:
            return False, f"{type(error).__name__}: {error}"

    def _upload(self, image: Path) -> str:
        """The name under which the server has the photo."""
        if not image.is_file():
            return str(image)
        answer = self._client.post(
            "/upload/image", files={"image": (image.name, image.read_bytes())}
        )
        if not answer.is_success:
            raise httpx2.HTTPError(_reason(answer))
        found = answer.json()
        return "/".join(part for part in (found["subfolder"], found["name"]) if part)

    def _about(self, photo: str, prefix: str) -> Graph:
        """The workflow about this photo."""
        graph: Graph = json.loads(json.dumps(self._workflow))
        for node in graph.values():
            if node["class_type"] == node_types.LOAD:
                node["inputs"]["image"] = photo
            if node["class_type"] == node_types.SAVE:
                node["inputs"]["filename_prefix"] = prefix
        return graph

    def _wait(self, job: str, interval: float, looks: int) -> tuple[bool, str]:
        for _ in range(looks):
            try:
                status = self._history(job).get("status")
            except (httpx2.HTTPError, ValueError) as error:  # it may come back
                status = None
                last = str(error)
            else:
                last = "it has not ended"
            if status:
                done = status["status_str"] == "success" and status["completed"]
                return (True, job) if done else (False, f"{job}: {_fault(status)}")
            time.sleep(interval)
        return False, f"{job}: given up after {looks} looks: {last}"

    def _history(self, job: str) -> dict[str, Json]:
        found = self._client.get(f"/history/{job}").raise_for_status().json()
        entry: dict[str, Json] = found.get(job, {})
        return entry


def _workflow(path: Path) -> Graph:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"the workflow cannot be read: {path}: {error}") from error
    graph: Json = to_graph(document) if is_ui_format(document) else document
    kinds = {node.get("class_type") for node in graph.values()} if isinstance(graph, dict) else ()
    if not {node_types.LOAD, node_types.SAVE} <= set(kinds):
        raise UsageError(f"the workflow has no {node_types.LOAD} and {node_types.SAVE}: {path}")
    return dict(graph)


def _reason(answer: httpx2.Response) -> str:
    """What the server says is wrong, its nodes' errors first."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:200]
    errors = [
        f"node {node}: {error['message']}: {error['details']}"
        for node, bad in body.get("node_errors", {}).items()
        for error in bad["errors"]
    ]
    told = body.get("error") or body.get("detail", "")
    return "; ".join(errors) or (told["message"] if isinstance(told, dict) else str(told))


def _fault(status: dict[str, Json]) -> str:
    for kind, data in status["messages"]:
        if kind == "execution_error":
            return f"{data['exception_type']}: {data['exception_message']}"
    return "interrupted"
