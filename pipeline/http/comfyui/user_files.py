"""Settings and small files that clients keep on the server, and the routes for them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.http.comfyui.dependencies import Body, ComfyRoute, get_service, read_body
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.uploads import validate_name
from bgpipe.pipeline.types import DAY_SECONDS

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.client import RedisClient
    from bgpipe.pipeline.comfyui.graph import Json

MAX_FILES, MAX_BYTES = 32, 250_000
"""Of one caller: Redis stores them."""
SETTINGS = "comfy.settings.json"


@dataclass(frozen=True, slots=True)
class UserFile:
    """`modified` is Unix time in milliseconds."""

    path: str
    size: int
    modified: int


class UserFiles:
    """The files of one owner. They expire together, some days after the last change."""

    def __init__(self, client: RedisClient, owner: str, keep_days: float) -> None:
        self._client = client
        self._key = keys.user_files_of(owner)
        self._seconds = max(1, int(keep_days * DAY_SECONDS))

    def read(self, path: str) -> bytes | None:
        value = cast("bytes | None", self._client.hget(self._key, path))
        return value.partition(b"\n")[2] if value else None

    def write(self, path: str, data: bytes, *, overwrite: bool = True) -> UserFile:
        """Store a file.

        Raises:
            Problem: it exists, is too large, or the caller has too many.

        """
        validate_name(path)
        names = cast("list[bytes]", self._client.hkeys(self._key))
        if path.encode() in names and not overwrite:
            raise Problem(409, "conflict", f"file exists: {path}: overwrite=true replaces it")
        if len(data) > MAX_BYTES or len({*names, path.encode()}) > MAX_FILES:
            raise Problem(413, "too-large", f"more than {MAX_FILES} files of {MAX_BYTES} bytes")
        file = UserFile(path, len(data), int(1000 * time.time()))
        self._client.hset(self._key, path, b"%d\n%s" % (file.modified, data))
        self._client.expire(self._key, self._seconds)
        return file

    def remove(self, path: str) -> bool:
        """Return whether there was one."""
        return bool(self._client.hdel(self._key, path))

    def list_below(self, folder: str) -> list[UserFile]:
        """Return the files of a folder and its folders; their paths begin there."""
        files = []
        values = cast("dict[bytes, bytes]", self._client.hgetall(self._key))
        for name, value in sorted(values.items()):
            modified, _, data = value.partition(b"\n")
            path = name.decode()
            if path.startswith(f"{folder}/"):
                files.append(UserFile(path[len(folder) + 1 :], len(data), int(modified)))
        return files

    @property
    def settings(self) -> dict[str, Json]:
        settings: dict[str, Json] = json.loads(self.read(SETTINGS) or b"{}")
        return settings


def get_files(request: Request) -> UserFiles:
    service = get_service(request)
    keep_days = service.state.settings.serve.keep_days
    return UserFiles(service.state.session.client, service.owner, keep_days)


Files = Annotated[UserFiles, Depends(get_files)]
router = APIRouter(route_class=ComfyRoute)


@router.get("/users")
def show_users() -> JSONResponse:
    """The response of a server with one user: an API key identifies the caller."""
    return JSONResponse({"storage": "server", "migrated": True})


@router.get("/settings")
def show_settings(files: Files) -> JSONResponse:
    return JSONResponse(files.settings)


@router.get("/settings/{name}")
def show_setting(files: Files, name: str) -> JSONResponse:
    return JSONResponse(files.settings.get(name))


@router.post("/settings")
def edit_settings(files: Files, body: Body) -> Response:
    if not isinstance(body, dict):
        raise Problem(400, "invalid_request", "not an object of settings")
    files.write(SETTINGS, json.dumps(files.settings | body).encode())
    return Response()


@router.post("/settings/{name}")
def edit_setting(files: Files, name: str, body: Body) -> Response:
    return edit_settings(files, {name: body})


@router.get("/userdata")
def list_files(
    files: Files,
    folder: Annotated[str, Query(alias="dir")],
    recurse: str = "",
    split: str = "",
    full_info: str = "",
) -> JSONResponse:
    """The paths below a folder, with size and date (`full_info`), or with their parts (`split`)."""
    found = files.list_below(folder.strip("/"))
    if not found:
        raise Problem(404, "unknown_folder", f"unknown folder: {folder[:100]}")
    found = [file for file in found if recurse == "true" or "/" not in file.path]
    if full_info == "true":
        return JSONResponse([asdict(file) for file in found])
    paths = [file.path for file in found]
    return JSONResponse([[each, *each.split("/")] for each in paths] if split == "true" else paths)


@router.get("/userdata/{path:path}")
def show_file(files: Files, path: str) -> Response:
    data = files.read(path)
    if data is None:
        raise Problem(404, "unknown_file", f"unknown file: {path[:100]}")
    return Response(data, media_type="application/octet-stream")


@router.post("/userdata/{path:path}")
def write_file(
    files: Files,
    path: str,
    data: Annotated[bytes, Depends(read_body)],
    overwrite: str = "true",
    full_info: str = "",
) -> JSONResponse:
    file = files.write(path, data, overwrite=overwrite != "false")
    return JSONResponse(asdict(file) if full_info == "true" else file.path)


@router.delete("/userdata/{path:path}", status_code=204)
def remove_file(files: Files, path: str) -> None:
    if not files.remove(path):
        raise Problem(404, "unknown_file", f"unknown file: {path[:100]}")
