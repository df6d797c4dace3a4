"""Endpoints of images, uploaded and viewed, and of settings and small files that clients keep here."""

import json
import re
import time
from contextlib import suppress
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Depends, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.comfyui.graph import Json
from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.http.comfyui.dependencies import Body, ComfyRoute, Service
from bgpipe.pipeline.http.comfyui.prompt_service import PromptService
from bgpipe.pipeline.http.files import download, validate_name
from bgpipe.pipeline.http.lifecycle import check_queue_capacity
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.images.preview import Channels, Encoding, put_alpha, render_channels
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import ObjectInfo

TRUE = ("true", "1")
QUALITY = 90
MAX_FILES, MAX_BYTES = 32, 250_000
"""Of one caller: Redis stores them."""
SETTINGS = "comfy.settings.json"
"""The file of the settings, as in ComfyUI."""
_PREVIEW = re.compile(r"(webp|jpeg)(?:;(\d{1,3}))?")

router = APIRouter(route_class=ComfyRoute)


class FileReference(BaseModel):
    """A file as ComfyUI names it."""

    filename: str
    subfolder: str = ""
    type: Literal["output", "input", "temp"] = "output"


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
    state = service.state
    if type_ == "input":
        if image := service.images.find(name):
            return state.uploads.open(service.owner, image.upload), image.info, False
    elif file := service.find_file(type_, name):
        with suppress(JobNotFound):
            store = state.session.stores.open(state.jobs.job(file.job).out)
            if info := store.head(state.jobs.items.get(file.job, 0).target):
                return store, info, file.is_mask
    raise Problem(404, "unknown_file", f"unknown file: {name[:100]}")


async def read_body(request: Request) -> bytes:
    return await request.body()


@router.get("/users")
def show_users() -> JSONResponse:
    """The response of a server with one user: an API key identifies the caller."""
    return JSONResponse({"storage": "server", "migrated": True})


@router.get("/settings")
def show_settings(service: Service) -> JSONResponse:
    return JSONResponse(_settings(service))


@router.get("/settings/{name}")
def show_setting(service: Service, name: str) -> JSONResponse:
    return JSONResponse(_settings(service).get(name))


@router.post("/settings")
def edit_settings(service: Service, body: Body) -> Response:
    if not isinstance(body, dict):
        raise Problem(400, "invalid_request", "not an object of settings")
    _write(service, SETTINGS, json.dumps(_settings(service) | body).encode())
    return Response()


@router.post("/settings/{name}")
def edit_setting(service: Service, name: str, body: Body) -> Response:
    return edit_settings(service, {name: body})


@router.get("/userdata")
def list_files(
    service: Service, folder: Annotated[str, Query(alias="dir")], recurse: str = "", split: str = ""
) -> JSONResponse:
    """The paths below a folder, with their parts if `split`."""
    head = folder.strip("/") + "/"
    paths = sorted(name.removeprefix(head) for name in _names(service) if name.startswith(head))
    if not paths:
        raise Problem(404, "unknown_folder", f"unknown folder: {folder[:100]}")
    paths = [path for path in paths if recurse == "true" or "/" not in path]
    return JSONResponse([[path, *path.split("/")] for path in paths] if split == "true" else paths)


@router.get("/userdata/{path:path}")
def show_file(service: Service, path: str) -> Response:
    data = _read(service, path)
    if data is None:
        raise Problem(404, "unknown_file", f"unknown file: {path[:100]}")
    return Response(data, media_type="application/octet-stream")


@router.post("/userdata/{path:path}")
def write_file(
    service: Service,
    path: str,
    data: Annotated[bytes, Depends(read_body)],
    overwrite: str = "true",
    full_info: str = "",
) -> JSONResponse:
    """Store a file; its path, or with `full_info` also its size and date, is the response."""
    if overwrite == "false" and path in _names(service):
        raise Problem(409, "conflict", f"file exists: {path}: overwrite=true replaces it")
    _write(service, path, data)
    info = {"path": path, "size": len(data), "modified": int(1000 * time.time())}
    return JSONResponse(info if full_info == "true" else path)


@router.delete("/userdata/{path:path}", status_code=204)
def remove_file(service: Service, path: str) -> None:
    if not service.client.hdel(keys.user_files_of(service.owner), path):
        raise Problem(404, "unknown_file", f"unknown file: {path[:100]}")


def _settings(service: Service) -> dict[str, Json]:
    settings: dict[str, Json] = json.loads(_read(service, SETTINGS) or b"{}")
    return settings


def _names(service: Service) -> list[str]:
    names = service.client.hkeys(keys.user_files_of(service.owner))
    return [name.decode() for name in cast("list[bytes]", names)]


def _read(service: Service, path: str) -> bytes | None:
    return cast("bytes | None", service.client.hget(keys.user_files_of(service.owner), path))


def _write(service: Service, path: str, data: bytes) -> None:
    validate_name(path)
    if len(data) > MAX_BYTES or len({*_names(service), path}) > MAX_FILES:
        raise Problem(413, "too-large", f"more than {MAX_FILES} files of {MAX_BYTES} bytes")
    client, key = service.client, keys.user_files_of(service.owner)
    client.hset(key, path, data)
    client.expire(key, service.state.keep_seconds)
