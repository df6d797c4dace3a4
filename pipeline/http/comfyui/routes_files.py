"""/upload/image and /view: photos in, cutouts and previews out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse

from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.http.comfyui.dependencies import PromptService, Service
from bgpipe.pipeline.http.comfyui.errors import ComfyRoute
from bgpipe.pipeline.http.downloads import Download
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.submission import check_queue_capacity
from bgpipe.pipeline.http.uploads import checked_name
from bgpipe.pipeline.images.preview import render_channels
from bgpipe.pipeline.jobs.store import JobNotFound

if TYPE_CHECKING:
    from bgpipe.pipeline.http.comfyui.prompt_store import OutputFile
    from bgpipe.pipeline.images.preview import Channels, Encoding
    from bgpipe.pipeline.storage.base import Store

TRUE = ("true", "1")
QUALITY = 90

_PREVIEW = re.compile(r"(webp|jpeg)(?:;(\d{1,3}))?")

router = APIRouter(route_class=ComfyRoute)


@router.post("/upload/image")
def upload_image(
    desk: Service,
    image: Annotated[UploadFile, File()],
    overwrite: Annotated[str, Form()] = "",
    type_: Annotated[Literal["input"], Form(alias="type")] = "input",
    subfolder: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Keep a photo; one that is there already keeps its name, another one of that name gets a number."""
    check_queue_capacity(desk.backend)
    folder = subfolder.strip("/")
    name = f"{folder}/{image.filename}" if folder else image.filename or ""
    with image.file:
        kept = desk.photos.put(name, image.file.read(), overwrite=overwrite.lower() in TRUE)
    folder, _, filename = kept.rpartition("/")
    return JSONResponse({"name": filename, "subfolder": folder, "type": type_})


@router.get("/view")
def view(
    request: Request,
    desk: Service,
    filename: str,
    subfolder: str = "",
    type_: Annotated[Literal["output", "input", "temp"], Query(alias="type")] = "output",
    preview: str = "",
    channel: Literal["rgba", "rgb", "a"] = "rgba",
) -> Response:
    """A file, one of its channels, or a smaller one to look at."""
    folder = subfolder.strip("/")
    _check(filename, folder)
    kept = None if type_ == "input" else desk.prompts.file(type_, folder, filename)
    if type_ == "input":
        found = _photo(desk, f"{folder}/{filename}" if folder else filename)
    else:
        found = _cutout(desk, kept)
    asked = _PREVIEW.fullmatch(preview)
    channels: Channels = "grey" if kept and kept.is_mask else channel
    if channels == "rgba" and not asked:
        answer = found.respond(request)
    else:
        answer = _varied(desk, found, channels, asked)
    answer.headers["Content-Disposition"] = f'filename="{_ascii(filename)}"'
    return answer


def _check(filename: str, folder: str) -> None:
    """Refuse names that lead elsewhere, before anything is looked up by them."""
    try:
        checked_name(f"{folder}/{filename}" if folder else filename)
    except ItemError as error:
        raise Problem(400, "invalid_name", error.detail) from error
    if "/" in filename or "\\" in filename:
        raise Problem(400, "invalid_name", "a file's name has no folders: use subfolder")


def _photo(desk: PromptService, name: str) -> Download:
    photo = desk.photos.find(name)
    if photo is None:
        raise _unknown(name)
    return _object(desk.backend.uploads.open(desk.owner, photo.upload), photo.key, name)


def _cutout(desk: PromptService, kept: OutputFile | None) -> Download:
    """What the worker wrote."""
    if kept is None:
        raise _unknown("no prompt of yours made it")
    try:
        job = desk.backend.jobs.job(kept.job)
        target = desk.backend.jobs.items.get(job.id, 0).target
    except JobNotFound as error:
        raise _unknown(kept.filename) from error
    return _object(desk.backend.session.stores.open(job.out), target, kept.filename)


def _object(store: Store, key: str, name: str) -> Download:
    entry = store.head(key)
    if entry is None:
        raise _unknown(name)
    return Download(store, entry)


def _varied(
    desk: PromptService, found: Download, channels: Channels, asked: re.Match[str] | None
) -> Response:
    """Some of the channels, or a smaller file."""
    kind: Encoding = "png"
    if asked:
        kind = "webp" if asked[1] == "webp" else "jpeg"
    quality = min(max(int(asked[2] or QUALITY), 1), 100) if asked else QUALITY
    limits = desk.backend.uploads.limits
    with desk.backend.pictures:
        data = found.store.read(found.entry.key, limits.max_bytes)
        made = render_channels(data, limits, channels, kind, quality)
    return Response(made, media_type=f"image/{kind}")


def _ascii(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._() -]", "_", name)


def _unknown(name: str) -> Problem:
    return Problem(404, "unknown_file", f"unknown file: {name[:100]}")
