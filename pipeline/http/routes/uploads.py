"""/v1/uploads: images for jobs, sent one by one or many at once."""

import re
from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, File, Path, UploadFile

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, State
from bgpipe.pipeline.http.files import UPLOAD_ID, new_upload_id
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.schemas import UploadBody
from bgpipe.pipeline.http.submission import check_queue_capacity

router = APIRouter(prefix="/v1", tags=["uploads"], dependencies=KEYED)

UploadId = Annotated[str, Path(pattern=f"^{UPLOAD_ID.pattern}$")]
Files = Annotated[list[UploadFile], File(min_length=1)]


@router.post("/uploads", status_code=201)
def create_upload(state: State) -> UploadBody:
    """Create an empty upload."""
    check_queue_capacity(state)
    return UploadBody(upload=new_upload_id(), files=[])


@router.post("/uploads/{upload}/files", status_code=201)
def add_files(state: State, caller: Caller, upload: UploadId, files: Files) -> UploadBody:
    """Add images to an upload; an image replaces one of the same name.

    If one is refused, those before it stay.
    """
    check_queue_capacity(state)
    return UploadBody(upload=upload, files=store_files(state, caller.name, upload, files))


def store_files(state: AppState, owner: str, upload: str, files: list[UploadFile]) -> list[str]:
    """Store images as `UploadStore.write` does; return their keys, which are distinct.

    Problem 413 if the upload would have too many images.
    """
    maximum, image_bytes = state.settings.serve.files, state.uploads.limits.max_bytes
    if state.uploads.count(owner, upload, maximum + 1) + len(files) > maximum:
        raise Problem(413, "too-many-files", f"too many images: the maximum is {maximum} an upload")
    keys: list[str] = []
    for file in files:
        with file.file, state.image_slots:
            name = make_distinct(file.filename or "image", keys)
            if (file.size or 0) > image_bytes:
                detail = f"{file.size} bytes: the maximum of an image is {image_bytes}"
                raise PermanentError(Code.TOO_LARGE, detail)
            keys.append(state.uploads.write(owner, upload, name, file.file.read()))
    return keys


def make_distinct(name: str, others: Collection[str]) -> str:
    """Number the stem of `name` if one of `others` has it: phones reuse names."""
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    number, distinct = 1, name
    while any(re.fullmatch(rf"{re.escape(distinct)}(\.\w+)?", other) for other in others):
        number += 1
        distinct = f"{stem}-{number}{dot}{suffix}"
    return distinct
