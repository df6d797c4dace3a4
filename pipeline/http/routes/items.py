"""/v1/jobs/{job}/items: the single images of a job, and what there is to see of each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, State
from bgpipe.pipeline.http.downloads import Download, archive, attachment, binary, etag_of
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem
from bgpipe.pipeline.images.preview import render_mask_thumbnail, render_thumbnail
from bgpipe.pipeline.jobs.items import ItemState, ItemView
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Item, Job, ObjectInfo, ReviewFlag

router = APIRouter(prefix="/v1", tags=["items"], responses=DOCUMENTED, dependencies=KEYED)

Index = Annotated[int, Path(ge=0, le=2**53)]


FILE = binary("application/octet-stream", partial=True)
ARCHIVE = binary("application/zip")
PREVIEW = binary("image/webp")


class ImageKind(StrEnum):
    SOURCE = "source"
    RESULT = "result"
    MASK = "mask"


class ItemBody(BaseModel):
    index: int
    source: str
    """Its name below the job's source."""
    target: str
    """Its cutout's name below the job's results."""
    state: ItemState
    code: str | None
    """Why it failed."""
    detail: str | None
    attempts: int | None
    """Of a failed one."""
    flags: list[ReviewFlag]


class ItemPage(BaseModel):
    items: list[ItemBody]
    next: int | None
    """What `start` is for the next page; null on the last one."""


@router.get("/jobs/{job}/items")
def list_items(
    backend: State,
    caller: Caller,
    job: str,
    start: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ItemPage:
    """The images that the job has to do, in their order; what was up to date is not among them."""
    order = backend.job(caller, job)
    found = backend.jobs.items.views(order.id, start, start + limit)
    end = start + limit
    more = end < backend.jobs.items.size(order.id)
    return ItemPage(items=[_body(standing) for standing in found], next=end if more else None)


@router.get("/jobs/{job}/items/{index}")
def show_item(backend: State, caller: Caller, job: str, index: Index) -> ItemBody:
    return _body(_view(backend, backend.job(caller, job), index))


@router.get("/jobs/{job}/items/{index}/result", response_class=Response, responses=FILE)
def download_result(
    backend: State, caller: Caller, job: str, index: Index, request: Request
) -> Response:
    """The cutout; parts of it by Range."""
    order = backend.job(caller, job)
    item = _item(backend, order, index)
    target = backend.session.stores.open(order.out)
    return Download(target, _entry(target, item.target)).respond(request)


@router.get("/jobs/{job}/items/{index}/preview", response_class=Response, responses=PREVIEW)
def preview(
    backend: State,
    caller: Caller,
    job: str,
    index: Index,
    request: Request,
    of: ImageKind = ImageKind.RESULT,
    side: Annotated[int, Query(ge=16, le=2048)] = 640,
) -> Response:
    """A small WebP of the source, of the cutout, or of its alpha in grey."""
    order = backend.job(caller, job)
    item = _item(backend, order, index)
    place, key = (order.source, item.source) if of is ImageKind.SOURCE else (order.out, item.target)
    store = backend.session.stores.open(place)
    tag = etag_of(_entry(store, key), of, str(side))
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(_small(backend, store, key, of, side), media_type="image/webp", headers=headers)


@router.get("/jobs/{job}/results.zip", response_class=StreamingResponse, responses=ARCHIVE)
def download_all(backend: State, caller: Caller, job: str) -> StreamingResponse:
    """Every cutout there is so far, streamed as one ZIP."""
    order = backend.job(caller, job)
    pages = archive(backend.jobs, order, backend.session.stores.open(order.out))
    name = f"{order.id}.zip"
    return StreamingResponse(
        pages, media_type="application/zip", headers={"Content-Disposition": attachment(name)}
    )


def _body(standing: ItemView) -> ItemBody:
    item, failure = standing.item, standing.failure
    return ItemBody(
        index=item.index,
        source=item.source,
        target=item.target,
        state=standing.state,
        code=failure.code if failure else None,
        detail=failure.detail if failure else None,
        attempts=failure.attempts if failure else None,
        flags=list(standing.flags),
    )


def _view(backend: AppState, job: Job, index: int) -> ItemView:
    found = backend.jobs.items.views(job.id, index, index + 1)
    if not found:
        raise Problem(404, "unknown-item", f"job {job.id} has no item: {index}")
    return found[0]


def _item(backend: AppState, job: Job, index: int) -> Item:
    return _view(backend, job, index).item


def _entry(store: Store, key: str) -> ObjectInfo:
    entry = store.head(key)
    if entry is None:
        raise PermanentError(Code.MISSING, f"not there, or not there yet: {key}")
    return entry


def _small(backend: AppState, store: Store, key: str, of: ImageKind, side: int) -> bytes:
    limits = backend.uploads.limits
    with backend.pictures:
        data = store.read(key, limits.max_bytes)
        if of is ImageKind.MASK:
            return render_mask_thumbnail(data, limits, side)
        return render_thumbnail(data, limits, side)
