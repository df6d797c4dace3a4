"""/upload/image and /view: images in, cutouts and previews out."""

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
from bgpipe.pipeline.http.uploads import validate_name
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
    service: Service,
    image: Annotated[UploadFile, File()],
    overwrite: Annotated[str, Form()] = "",
    type_: Annotated[Literal["input"], Form(alias="type")] = "input",
    subfolder: Annotated[str, Form()] = "",
) -> JSONResponse:
    """Store an image; if another one has its name, it gets a number."""
    check_queue_capacity(service.state)
    requested = _join(subfolder.strip("/"), image.filename or "")
    is_overwrite = overwrite.lower() in TRUE
    with image.file:
        name = service.images.write(requested, image.file.read(), overwrite=is_overwrite)
    folder, _, filename = name.rpartition("/")
    return JSONResponse({"name": filename, "subfolder": folder, "type": type_})


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
    folder = subfolder.strip("/")
    _validate(filename, folder)
    channels: Channels = channel
    if type_ == "input":
        download = _input_image(service, _join(folder, filename))
    else:
        file = service.prompts.find_file(type_, folder, filename)
        download = _output_file(service, file)
        channels = "grey" if file and file.is_mask else channel
    encoding = _PREVIEW.fullmatch(preview)
    if channels == "rgba" and not encoding:
        response = download.respond(request)
    else:
        response = _respond_rendered(service, download, channels, encoding)
    ascii_name = re.sub(r"[^A-Za-z0-9._() -]", "_", filename)
    response.headers["Content-Disposition"] = f'filename="{ascii_name}"'
    return response


def _join(folder: str, filename: str) -> str:
    return f"{folder}/{filename}" if folder else filename


def _validate(filename: str, folder: str) -> None:
    """Refuse unsafe names before any lookup."""
    try:
        validate_name(_join(folder, filename))
    except ItemError as error:
        raise Problem(400, "invalid_name", error.detail) from error
    if "/" in filename or "\\" in filename:
        raise Problem(400, "invalid_name", "filename has folders: use subfolder")


def _input_image(service: PromptService, name: str) -> Download:
    image = service.images.find(name)
    if image is None:
        raise _file_not_found(name)
    return _download(service.state.uploads.open(service.owner, image.upload), image.key, name)


def _output_file(service: PromptService, file: OutputFile | None) -> Download:
    if file is None:
        raise _file_not_found("not an output of the caller's prompts")
    try:
        job = service.state.jobs.job(file.job)
        target = service.state.jobs.items.get(job.id, 0).target
    except JobNotFound as error:
        raise _file_not_found(file.filename) from error
    return _download(service.state.session.stores.open(job.out), target, file.filename)


def _download(store: Store, key: str, name: str) -> Download:
    info = store.head(key)
    if info is None:
        raise _file_not_found(name)
    return Download(store, info)


def _respond_rendered(
    service: PromptService, download: Download, channels: Channels, match: re.Match[str] | None
) -> Response:
    encoding: Encoding = "png"
    if match:
        encoding = "webp" if match[1] == "webp" else "jpeg"
    quality = min(max(int(match[2] or QUALITY), 1), 100) if match else QUALITY
    limits = service.state.uploads.limits
    with service.state.image_slots:
        data = download.store.read(download.info.key, limits.max_bytes)
        image = render_channels(data, limits, channels, encoding, quality)
    return Response(image, media_type=f"image/{encoding}")


def _file_not_found(name: str) -> Problem:
    return Problem(404, "unknown_file", f"unknown file: {name[:100]}")
