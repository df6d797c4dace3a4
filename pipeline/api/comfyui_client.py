"""A client of `bgpipe serve` with the interface of a Python class for ComfyUI scripts."""

import json
import time
from collections.abc import Sequence
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import TypedDict

import httpx2

from bgpipe.pipeline.comfyui import node_types
from bgpipe.pipeline.comfyui.graph import Graph, Json
from bgpipe.pipeline.comfyui.ui_format import is_ui_format, to_graph
from bgpipe.pipeline.errors import UsageError


class Detail(TypedDict):
    """The end of one image of a batch. `result` is the job's id, or an error message."""

    image: str
    success: bool
    result: str


class Batch(TypedDict):
    """total = succeeded + failed; `details` are in the order of the images."""

    total: int
    succeeded: int
    failed: int
    details: list[Detail]


class BackgroundRemovalAPI:
    """Submits images to `bgpipe serve` by its ComfyUI interface.

    `save` and `get_system_stats` raise httpx2.HTTPError if the server is not reachable.

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
        """Read the workflow. `timeout` is of one request, in seconds; `key` is an API key.

        Raises UsageError: the workflow cannot be read, or has no LoadImage and SaveImage.
        """
        self._workflow = _read_workflow(Path(workflow_path))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"http://{comfy_host}:{comfy_port}"
        self._client = httpx2.Client(base_url=url, headers=headers, timeout=timeout)

    def process_image(
        self,
        image_filename: str | Path,
        output_prefix: str = "bg_removed",
        poll_interval: float = 0.5,
        max_retries: int = 600,
    ) -> tuple[bool, str]:
        """Return whether a cutout was made, and the job's id or an error message.

        `image_filename` is a local file, or the name of an image on the server. The job is polled up
        to `max_retries` times, every `poll_interval` seconds.
        """
        success, result = self._post(image_filename, output_prefix)
        return self._wait(result, poll_interval, max_retries) if success else (False, result)

    def process_batch(
        self,
        image_files: Sequence[str | Path],
        output_prefix: str = "bg_removed",
        delay_between: float = 0.0,
        poll_interval: float = 0.5,
        max_retries: int = 600,
    ) -> Batch:
        """Post all images, `delay_between` seconds apart, and wait for each."""
        details: list[Detail] = []
        for index, image in enumerate(image_files):
            if index:
                time.sleep(delay_between)
            success, result = self._post(image, output_prefix)
            details.append({"image": str(image), "success": success, "result": result})
        for detail in details:
            if detail["success"]:
                ended = self._wait(detail["result"], poll_interval, max_retries)
                detail["success"], detail["result"] = ended
        total, succeeded = len(details), sum(detail["success"] for detail in details)
        failed = total - succeeded
        return {"total": total, "succeeded": succeeded, "failed": failed, "details": details}

    def save(self, job: str, folder: str | Path) -> list[Path]:
        """Download what a job saved, until it expires, into `folder`, which is created; return the paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        outputs = self._history_entry(job)["outputs"].values()
        for image in chain.from_iterable(output["images"] for output in outputs):
            if image["type"] == "output":
                response = self._client.get("/view", params=image).raise_for_status()
                paths.append(target / Path(image["filename"]).name)
                paths[-1].write_bytes(response.content)
        return paths

    def get_system_stats(self) -> dict[str, Json]:
        """Return statistics of the server and its workers."""
        return dict(self._client.get("/system_stats").raise_for_status().json())

    def health_check(self) -> bool:
        """Return whether the server responds."""
        try:
            return self._client.get("/system_stats").is_success
        except httpx2.HTTPError:
            return False

    def close(self) -> None:
        self._client.close()

    def _post(self, image: str | Path, prefix: str) -> tuple[bool, str]:
        """Return whether the prompt was accepted, and its id or an error message."""
        try:
            graph = self._fill_workflow(self._upload(Path(image)), prefix)
            response = self._client.post("/prompt", json={"prompt": graph})
            if response.is_success:
                return True, response.json()["prompt_id"]
            return False, f"HTTP {response.status_code}: {_error_message(response)}"
        except (httpx2.HTTPError, OSError) as error:
            return False, f"{type(error).__name__}: {error}"

    def _upload(self, image: Path) -> str:
        """Return the image's name on the server; one that is not a local file is already there."""
        if not image.is_file():
            return str(image)
        files = {"image": (image.name, image.read_bytes())}
        response = self._client.post("/upload/image", files=files)
        if not response.is_success:
            raise httpx2.HTTPError(_error_message(response))
        uploaded = response.json()
        return "/".join(part for part in (uploaded["subfolder"], uploaded["name"]) if part)

    def _fill_workflow(self, image: str, prefix: str) -> Graph:
        graph = deepcopy(self._workflow)
        for node in graph.values():
            if node["class_type"] == node_types.LOAD:
                node["inputs"]["image"] = image
            if node["class_type"] == node_types.SAVE:
                node["inputs"]["filename_prefix"] = prefix
        return graph

    def _wait(self, job: str, interval: float, attempts: int) -> tuple[bool, str]:
        last = "not polled"
        for _ in range(attempts):
            try:
                status, last = self._history_entry(job).get("status"), "the job has not ended"
            except (httpx2.HTTPError, ValueError) as error:  # the server may return
                status, last = None, str(error)
            if status:
                is_done = status["status_str"] == "success" and status["completed"]
                return (True, job) if is_done else (False, f"{job}: {_failure(status)}")
            time.sleep(interval)
        return False, f"{job}: timed out after {attempts} attempts: {last}"

    def _history_entry(self, job: str) -> dict[str, Json]:
        history = self._client.get(f"/history/{job}").raise_for_status().json()
        return dict(history.get(job, {}))


def _read_workflow(path: Path) -> Graph:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the workflow: {path}: {error}") from error
    graph: Json = to_graph(document) if is_ui_format(document) else document
    types = {node.get("class_type") for node in graph.values()} if isinstance(graph, dict) else ()
    if not {node_types.LOAD, node_types.SAVE} <= set(types):
        raise UsageError(f"the workflow has no {node_types.LOAD} and {node_types.SAVE}: {path}")
    return dict(graph)


def _error_message(response: httpx2.Response) -> str:
    """Return the errors of the nodes, or else that of the request."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    errors = [
        f"node {name}: {error['message']}: {error['details']}"
        for name, node in body.get("node_errors", {}).items()
        for error in node["errors"]
    ]
    error = body.get("error") or body.get("detail", "")
    return "; ".join(errors) or (error["message"] if isinstance(error, dict) else str(error))


def _failure(status: dict[str, Json]) -> str:
    errors = (data for kind, data in status["messages"] if kind == "execution_error")
    texts = (f"{error['exception_type']}: {error['exception_message']}" for error in errors)
    return next(texts, "interrupted")
