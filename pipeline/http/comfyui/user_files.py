"""Settings and small files that clients keep on the server."""

import json
import time
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.comfyui.graph import Json
from bgpipe.pipeline.http.comfyui.dependencies import Body, ComfyRoute, Service
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.uploads import validate_name

MAX_FILES, MAX_BYTES = 32, 250_000
"""Of one caller: Redis stores them."""
SETTINGS = "comfy.settings.json"
"""The file of the settings, as in ComfyUI."""


async def read_body(request: Request) -> bytes:
    return await request.body()


router = APIRouter(route_class=ComfyRoute)


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
    if not service.state.session.client.hdel(keys.user_files_of(service.owner), path):
        raise Problem(404, "unknown_file", f"unknown file: {path[:100]}")


def _settings(service: Service) -> dict[str, Json]:
    settings: dict[str, Json] = json.loads(_read(service, SETTINGS) or b"{}")
    return settings


def _names(service: Service) -> list[str]:
    names = service.state.session.client.hkeys(keys.user_files_of(service.owner))
    return [name.decode() for name in cast("list[bytes]", names)]


def _read(service: Service, path: str) -> bytes | None:
    client, key = service.state.session.client, keys.user_files_of(service.owner)
    return cast("bytes | None", client.hget(key, path))


def _write(service: Service, path: str, data: bytes) -> None:
    validate_name(path)
    if len(data) > MAX_BYTES or len({*_names(service), path}) > MAX_FILES:
        raise Problem(413, "too-large", f"more than {MAX_FILES} files of {MAX_BYTES} bytes")
    client, key = service.state.session.client, keys.user_files_of(service.owner)
    client.hset(key, path, data)
    client.expire(key, service.state.keep_seconds)
