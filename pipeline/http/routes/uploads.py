"""/v1/uploads: images that jobs can be made of, sent one by one or many at once."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, File, Path, UploadFile
from pydantic import BaseModel

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, State
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem
from bgpipe.pipeline.http.submission import check_queue_capacity, touch_upload
from bgpipe.pipeline.http.uploads import UPLOAD_NAME

router = APIRouter(prefix="/v1", tags=["uploads"], responses=DOCUMENTED, dependencies=KEYED)

UploadName = Annotated[str, Path(pattern=f"^{UPLOAD_NAME.pattern}$")]
Files = Annotated[list[UploadFile], File(min_length=1)]


class UploadBody(BaseModel):
    upload: str
    files: list[str]
    """The names that the images of this request have now; one without an image's suffix gets one."""


@router.post("/uploads", status_code=201)
def create_upload(backend: State, caller: Caller) -> UploadBody:
    """Begin an upload; its images follow."""
    check_queue_capacity(backend)
    upload = backend.uploads.new_name()
    touch_upload(backend, f"{caller.name}/uploads/{upload}")
    return UploadBody(upload=upload, files=[])


@router.post("/uploads/{upload}/files", status_code=201)
def add_files(backend: State, caller: Caller, upload: UploadName, files: Files) -> UploadBody:
    """Add images to an upload; one of a name that is there already takes its place.

    If one is refused, those before it stay.
    """
    check_queue_capacity(backend)
    return UploadBody(upload=upload, files=store_files(backend, caller.name, upload, files))


def store_files(backend: AppState, owner: str, upload: str, files: list[UploadFile]) -> list[str]:
    """Keep the images, each checked; returns their keys, all different.

    Raises:
        PermanentError: one is no image, is too large, or has a name that leads out of the upload.
        Problem: 413, there are too many.

    """
    most = backend.settings.serve.files
    if backend.uploads.count(owner, upload, most + 1) + len(files) > most:
        raise Problem(413, "too-many-files", f"an upload has up to {most} images")
    kept: list[str] = []
    for file in files:
        with file.file, backend.pictures:
            name = distinct_name(file.filename or "image", kept)
            kept.append(backend.uploads.put(owner, upload, name, _content(backend, file)))
    return kept


def _content(backend: AppState, file: UploadFile) -> bytes:
    most = backend.uploads.limits.max_bytes
    if (file.size or 0) > most:
        raise PermanentError(Code.TOO_LARGE, f"{file.size} bytes: an image has up to {most}")
    return file.file.read()


def distinct_name(name: str, others: list[str]) -> str:
    """`name`, or with a number behind its stem what none of `others` is called: phones call all alike."""
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    number, found = 1, name
    while any(re.fullmatch(rf"{re.escape(found)}(\.\w+)?", other) for other in others):
        number += 1
        found = f"{stem}-{number}{dot}{suffix}"
    return found
