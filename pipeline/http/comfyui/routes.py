"""ComfyUI's routes under / and under /api: prompts, images, files, and what the server supports."""

import importlib.metadata
import os
import platform
import re
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from bgpipe.pipeline.comfyui.graph import Json
from bgpipe.pipeline.comfyui.node_types import make_node_types
from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.http.comfyui import user_files, websocket
from bgpipe.pipeline.http.comfyui.dependencies import Body, ComfyRoute, PromptService, Service
from bgpipe.pipeline.http.comfyui.prompt_store import HISTORY
from bgpipe.pipeline.http.comfyui.prompts import PromptState, PromptStatus
from bgpipe.pipeline.http.comfyui.submission import submit_prompt
from bgpipe.pipeline.http.downloads import download
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.submission import check_queue_capacity
from bgpipe.pipeline.http.uploads import validate_name
from bgpipe.pipeline.images.preview import Channels, Encoding, put_alpha, render_channels
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import ObjectInfo

COMFYUI_VERSION = "0.3.64"
"""The version of ComfyUI whose interface this is."""
TRUE = ("true", "1")
QUALITY = 90


class FileReference(BaseModel):
    """A file as ComfyUI names it."""

    filename: str
    subfolder: str = ""
    type: Literal["output", "input", "temp"] = "output"


_PREVIEW = re.compile(r"(webp|jpeg)(?:;(\d{1,3}))?")

router = APIRouter(route_class=ComfyRoute, include_in_schema=False)
router.add_api_websocket_route("/ws", websocket.send_events)
router.include_router(user_files.router)


@router.post("/prompt")
def post_prompt(service: Service, body: Body) -> JSONResponse:
    prompt, errors = submit_prompt(service, body)
    return JSONResponse({"prompt_id": prompt.id, "number": prompt.number, "node_errors": errors})


@router.get("/prompt")
def show_prompt(service: Service) -> JSONResponse:
    return JSONResponse(websocket.exec_info(service.prompts.count_open()))


@router.get("/queue")
def show_queue(service: Service) -> JSONResponse:
    queue: dict[str, list[Json]] = {"queue_running": [], "queue_pending": []}
    for state in service.prompts.open():
        is_running = state.status is PromptStatus.RUNNING
        queue["queue_running" if is_running else "queue_pending"].append(state.prompt.queue_item)
    return JSONResponse(queue)


@router.post("/queue")
def edit_queue(service: Service, body: Body) -> Response:
    """Remove pending prompts; running ones stay."""
    states = service.prompts.open()
    pending = [state for state in states if state.status is PromptStatus.PENDING]
    for state in _select(pending, body):
        service.prompts.cancel(state.prompt)
        service.prompts.forget(state.prompt)
    return Response()


@router.post("/interrupt")
def interrupt(service: Service, body: Body) -> Response:
    """Cancel one running prompt, or all of the caller's."""
    prompt_id = body.get("prompt_id") if isinstance(body, dict) else None
    for state in service.prompts.open():
        if state.status is PromptStatus.RUNNING and prompt_id in (None, state.prompt.id):
            service.prompts.cancel(state.prompt)
    return Response()


@router.get("/history")
def show_history(
    service: Service, max_items: int = HISTORY, offset: int | None = None
) -> JSONResponse:
    """The newest entries, or those from `offset` on; oldest first."""
    ended = service.prompts.ended()
    count = min(max(max_items, 0), HISTORY)
    first = max(len(ended) - count, 0) if offset is None or offset < 0 else offset
    page = ended[first : first + count]
    return JSONResponse({state.prompt.id: state.history_entry for state in page})


@router.get("/history/{prompt}")
def show_entry(service: Service, prompt: str) -> JSONResponse:
    ended = (state for state in service.prompts.find(prompt) if state.has_ended)
    return JSONResponse({state.prompt.id: state.history_entry for state in ended})


@router.post("/history")
def edit_history(service: Service, body: Body) -> Response:
    """Remove entries; their files stay until they expire."""
    for state in _select(service.prompts.ended(), body):
        service.prompts.forget(state.prompt)
    return Response()


def _select(states: list[PromptState], body: object) -> list[PromptState]:
    """Return all for a body with `clear`, else those whose ids are in its `delete`."""
    if not isinstance(body, dict):
        return []
    ids = body.get("delete")
    deleted = set(map(str, ids)) if isinstance(ids, list) else set()
    return [state for state in states if body.get("clear") or state.prompt.id in deleted]


@router.post("/upload/image")
@router.post("/upload/mask")
def upload_image(
    service: Service,
    image: Annotated[UploadFile, File()],
    overwrite: Annotated[str, Form()] = "",
    type_: Annotated[Literal["input"], Form(alias="type")] = "input",
    subfolder: Annotated[str, Form()] = "",
    original_ref: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Store an image; if another one has its name, it gets a number.

    With `original_ref`, a file as JSON, that file is stored with the alpha of the image.
    """
    check_queue_capacity(service.state)
    requested = _join(subfolder, image.filename or "")
    is_overwrite = overwrite.lower() in TRUE
    with image.file, service.state.image_slots:
        data = image.file.read()
        if original_ref:
            data = _put_alpha(service, original_ref, data)
        name = service.images.write(requested, data, overwrite=is_overwrite)
    folder, _, filename = name.rpartition("/")
    return JSONResponse({"name": filename, "subfolder": folder, "type": type_})


def _put_alpha(service: PromptService, reference: str, mask: bytes) -> bytes:
    """Return the file of `reference` as PNG, with the alpha of the image `mask`."""
    try:
        original = FileReference.model_validate_json(reference)
    except ValidationError as error:
        raise Problem(400, "invalid_request", f"not a file: {reference[:100]}") from error
    name = _join(original.subfolder, original.filename)
    store, info, _ = _find_file(service, original.type, name)
    limits = service.state.uploads.limits
    return put_alpha(store.read(info.key, limits.max_bytes), mask, limits)


@router.get("/view")
def view(
    request: Request,
    service: Service,
    filename: str,
    subfolder: str = "",
    type_: Annotated[Literal["output", "input", "temp"], Query(alias="type")] = "output",
    preview: str = "",
    channel: Literal["rgba", "rgb", "a"] = "rgba",
) -> Response:
    """A file, one of its channels, or a smaller version."""
    name = _join(subfolder, filename)
    try:
        validate_name(name)  # before any lookup
    except ItemError as error:
        raise Problem(400, "invalid_name", error.detail) from error
    if "/" in filename or "\\" in filename:
        raise Problem(400, "invalid_name", "filename has folders: use subfolder")
    store, info, is_mask = _find_file(service, type_, name)
    channels: Channels = "grey" if is_mask else channel
    rendered = _PREVIEW.fullmatch(preview)
    if channels == "rgba" and not rendered:
        response = download(request, store, info)
    else:
        encoding: Encoding = rendered[1] if rendered else "png"  # type: ignore[assignment]  # as the pattern says
        quality = min(max(int(rendered[2] or QUALITY), 1), 100) if rendered else QUALITY
        limits = service.state.uploads.limits
        with service.state.image_slots:
            data = store.read(info.key, limits.max_bytes)
            image = render_channels(data, limits, channels, encoding, quality)
        response = Response(image, media_type=f"image/{encoding}")
    ascii_name = re.sub(r"[^A-Za-z0-9._() -]", "_", filename)
    response.headers["Content-Disposition"] = f'filename="{ascii_name}"'
    return response


@router.get("/output/{name:path}")
def show_output(request: Request, service: Service, name: str) -> Response:
    """A saved file by its path, as scripts expect it of a web server in front of ComfyUI."""
    folder, _, filename = name.rpartition("/")
    return view(request, service, filename, folder)


def _join(folder: str, filename: str) -> str:
    return f"{folder.strip('/')}/{filename}".removeprefix("/")


def _find_file(service: PromptService, type_: str, name: str) -> tuple[Store, ObjectInfo, bool]:
    """Return an uploaded image or an output, and whether its alpha alone is shown; Problem 404."""
    state, is_mask, key = service.state, False, ""
    store: Store | None = None
    if type_ == "input":
        if image := service.images.find(name):
            store, key = state.uploads.open(service.owner, image[0]), image[1]
    elif file := service.prompts.find_file(type_, name):
        is_mask = file.is_mask
        with suppress(JobNotFound):
            store = state.session.stores.open(state.jobs.job(file.job).out)
            key = state.jobs.items.get(file.job, 0).target
    info = store.head(key) if store and key else None
    if store is None or info is None:
        raise Problem(404, "unknown_file", f"unknown file: {name[:100]}")
    return store, info, is_mask


@router.get("/object_info")
def show_nodes(service: Service) -> JSONResponse:
    models = service.state.settings.comfyui.models
    node_types = make_node_types(models, service.images.names())
    return JSONResponse({name: node_type.info for name, node_type in node_types.items()})


@router.get("/object_info/{name}")
def show_node(service: Service, name: str) -> JSONResponse:
    models = service.state.settings.comfyui.models
    node_type = make_node_types(models, service.images.names()).get(name)
    return JSONResponse({name: node_type.info} if node_type else {})


@router.get("/system_stats")
def show_system(service: Service) -> JSONResponse:
    """The server's machine, and the workers of the cluster, of whose devices the memory is unknown."""
    torch_version = ""
    with suppress(importlib.metadata.PackageNotFoundError):  # a machine without workers
        torch_version = importlib.metadata.version("torch")
    system = {
        "os": os.name,
        "ram_total": _memory("SC_PHYS_PAGES"),
        "ram_free": _memory("SC_AVPHYS_PAGES"),
        "comfyui_version": COMFYUI_VERSION,
        "required_frontend_version": "",
        "installed_templates_version": "",
        "required_templates_version": "",
        "python_version": platform.python_version(),
        "pytorch_version": torch_version,
        "embedded_python": False,
        "argv": ["bgpipe", "serve"],
        "bgpipe_version": importlib.metadata.version("bgpipe"),
    }
    memory = dict.fromkeys(("vram_total", "vram_free", "torch_vram_total", "torch_vram_free"), 0)
    workers = [heartbeat.worker for heartbeat in read_heartbeats(service.state.session.client)]
    devices: list[Json] = [
        {"name": name, "type": "cpu" if name.startswith("cpu") else "cuda", "index": index} | memory
        for index, name in enumerate(workers)
    ]
    return JSONResponse({"system": system, "devices": devices})


def _memory(pages: str) -> int:
    """Return the bytes of `pages`, or 0 where the system does not report them."""
    try:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
