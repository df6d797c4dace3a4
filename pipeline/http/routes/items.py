"""/v1/jobs/{job}/items: the images of a job, their cutouts and previews."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, OwnJob, State
from bgpipe.pipeline.http.downloads import (
    Download,
    attachment,
    document_file,
    etag_of,
    stream_zip,
)
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem
from bgpipe.pipeline.http.schemas import ImageKind, ItemBody, ItemPage, item_body
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.jobs.items import ItemView
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job, ObjectInfo

router = APIRouter(prefix="/v1", tags=["items"], responses=DOCUMENTED, dependencies=KEYED)

Index = Annotated[int, Path(ge=0, le=2**53)]
FILE = document_file("application/octet-stream", partial=True)
ZIP = document_file("application/zip")
PREVIEW = document_file("image/webp")


class JobItem(NamedTuple):
    job: Job
    view: ItemView


def get_own_item(state: State, caller: Caller, job: str, index: Index) -> JobItem:
    own_job = state.job(caller, job)
    views = state.jobs.items.views(own_job.id, index, index + 1)
    if not views:
        raise Problem(404, "unknown-item", f"job {own_job.id} has no item: {index}")
    return JobItem(own_job, views[0])


OwnItem = Annotated[JobItem, Depends(get_own_item)]
"""The item in the path, of a job that the caller may see."""


@router.get("/jobs/{job}/items")
def list_items(
    state: State,
    job: OwnJob,
    start: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ItemPage:
    """The images of the job in order, without those that were up to date."""
    stop = start + limit
    views = state.jobs.items.views(job.id, start, stop)
    has_more = stop < state.jobs.items.size(job.id)
    return ItemPage(items=[item_body(view) for view in views], next=stop if has_more else None)


@router.get("/jobs/{job}/items/{index}")
def show_item(item: OwnItem) -> ItemBody:
    return item_body(item.view)


@router.get("/jobs/{job}/items/{index}/result", response_class=Response, responses=FILE)
def download_result(state: State, item: OwnItem, request: Request) -> Response:
    """The cutout; parts of it by Range."""
    target = state.session.stores.open(item.job.out)
    return Download(target, _object_info(target, item.view.item.target)).respond(request)


@router.get("/jobs/{job}/items/{index}/preview", response_class=Response, responses=PREVIEW)
def preview(
    state: State,
    own: OwnItem,
    request: Request,
    of: ImageKind = ImageKind.RESULT,
    side: Annotated[int, Query(ge=16, le=2048)] = 640,
) -> Response:
    """A small WebP of the source, of the cutout, or of its alpha in gray."""
    job, item, is_source = own.job, own.view.item, of is ImageKind.SOURCE
    store = state.session.stores.open(job.source if is_source else job.out)
    key = item.source if is_source else item.target
    tag = etag_of(_object_info(store, key), of, str(side))
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    data = _render_preview(state, store, key, of, side)
    return Response(data, media_type="image/webp", headers=headers)


@router.get("/jobs/{job}/results.zip", response_class=StreamingResponse, responses=ZIP)
def download_all(state: State, job: OwnJob) -> StreamingResponse:
    """All cutouts made so far, streamed as one ZIP."""
    chunks = stream_zip(state.jobs, job, state.session.stores.open(job.out))
    headers = {"Content-Disposition": attachment(f"{job.id}.zip")}
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)


def _object_info(store: Store, key: str) -> ObjectInfo:
    info = store.head(key)
    if info is None:
        raise PermanentError(Code.MISSING, f"missing, or not made yet: {key}")
    return info


def _render_preview(state: AppState, store: Store, key: str, of: ImageKind, side: int) -> bytes:
    limits = state.uploads.limits
    with state.image_slots:
        data = store.read(key, limits.max_bytes)
        return render_thumbnail(data, limits, side, mask=of is ImageKind.MASK)
