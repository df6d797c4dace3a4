"""/v1/jobs/{job}/items: the images of a job, their cutouts and previews."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from bgpipe.config.output import MEDIA_TYPES
from bgpipe.pipeline.http.dependencies import KEYED, Caller, OwnJob, State, get_own_job
from bgpipe.pipeline.http.files import document_file, download, download_zip, etag_of, object_info
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.schemas import ImageKind, ItemBody, ItemPage, item_body
from bgpipe.pipeline.images.preview import render_thumbnail
from bgpipe.pipeline.jobs.items import ItemView
from bgpipe.pipeline.types import Job

router = APIRouter(prefix="/v1", tags=["items"], dependencies=KEYED)

Index = Annotated[int, Path(ge=0, le=2**53)]
FORMATS = [MEDIA_TYPES[suffix] for suffix in sorted(MEDIA_TYPES)]
FILE = document_file("application/octet-stream", *FORMATS, partial=True)
ZIP = document_file("application/zip")
PREVIEW = document_file("image/webp")


def get_own_item(state: State, caller: Caller, job: str, index: Index) -> tuple[Job, ItemView]:
    own_job = get_own_job(state, caller, job)
    views = state.jobs.items.views(own_job.id, index, index + 1)
    if not views:
        raise Problem(404, "unknown-item", f"job {job} has no item: {index}")
    return own_job, views[0]


OwnItem = Annotated[tuple[Job, ItemView], Depends(get_own_item)]
"""The job and the item in the path, which the caller may see."""
OutputName = Annotated[str, Query(max_length=40)]


def _target_key(job: Job, view: ItemView, output: str) -> str:
    """Return the key of an output, by default the first; Problem 404 if none has this name."""
    targets = dict(zip((each.name for each in job.outputs), view.item.targets, strict=False))
    if output and output not in targets:
        raise Problem(404, "unknown-item", f"job {job.id} has no output: {output}")
    return targets[output] if output else view.item.target


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
    items = [item_body(job, view) for view in views]
    return ItemPage(items=items, next=stop if has_more else None)


@router.get("/jobs/{job}/items/{index}")
def show_item(own: OwnItem) -> ItemBody:
    return item_body(*own)


@router.get("/jobs/{job}/items/{index}/result", response_class=Response, responses=FILE)
def download_result(
    state: State, own: OwnItem, request: Request, output: OutputName = ""
) -> Response:
    """The cutout, or one of its named outputs, by default the first; parts of it by Range."""
    job, view = own
    target = state.session.stores.open(job.out)
    return download(request, target, object_info(target, _target_key(job, view, output)))


@router.get("/jobs/{job}/items/{index}/preview", response_class=Response, responses=PREVIEW)
def preview(
    state: State,
    own: OwnItem,
    request: Request,
    of: ImageKind = ImageKind.RESULT,
    side: Annotated[int, Query(ge=16, le=2048)] = 640,
    output: OutputName = "",
) -> Response:
    """A small WebP of the source, of the cutout, or of its alpha in gray."""
    job, view = own
    is_source = of is ImageKind.SOURCE
    store = state.session.stores.open(job.source if is_source else job.out)
    key = view.item.source if is_source else _target_key(job, view, output)
    tag = etag_of(object_info(store, key), of, str(side))
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    limits, is_mask = state.uploads.limits, of is ImageKind.MASK
    with state.image_slots:
        data = render_thumbnail(store.read(key, limits.max_bytes), limits, side, mask=is_mask)
    return Response(data, media_type="image/webp", headers=headers)


@router.get("/jobs/{job}/results.zip", response_class=StreamingResponse, responses=ZIP)
def download_all(state: State, job: OwnJob) -> Response:
    """All cutouts made so far, streamed as one ZIP."""
    return download_zip(state.jobs, job, state.session.stores.open(job.out))
