"""/v1/uploads: images for jobs. /v1/jobs: submit, list, cancel, retry, delete and follow jobs."""

import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Annotated, Any, cast

import anyio
from anyio import to_thread
from fastapi import APIRouter, File, Form, Header, Path, Query, Response, UploadFile
from fastapi.responses import StreamingResponse

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import BgpipeError, Code, PermanentError, StoreCorrupted, UsageError
from bgpipe.pipeline.http import lifecycle
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, OwnJob, State
from bgpipe.pipeline.http.files import CHUNK_BYTES, UPLOAD_ID, new_upload_id, upload_not_found
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.schemas import JobBody, JobForm, JobPage, JobRequest, UploadBody, job_body
from bgpipe.pipeline.jobs.store import JobNotFound, JobStore
from bgpipe.pipeline.types import CLOSED_STATES, Job, JobId, JobState

uploads_router = APIRouter(prefix="/v1", tags=["uploads"], dependencies=KEYED)
router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=KEYED)
events_router = APIRouter(prefix="/v1", tags=["jobs"], dependencies=KEYED)
"""Included after the items' routes, whose order in the OpenAPI document is fixed."""

UploadId = Annotated[str, Path(pattern=f"^{UPLOAD_ID.pattern}$")]
Files = Annotated[list[UploadFile], File(min_length=1)]
IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", max_length=255)]
CLOCKS = ("seconds", "images_per_second")
"""Fields of a summary whose changes are no event."""
POLL = 0.5
"""Seconds between two reads of a followed job."""
KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment keeps the connection open."""


@uploads_router.post("/uploads", status_code=201)
def create_upload(state: State) -> UploadBody:
    """Create an empty upload."""
    lifecycle.check_queue_capacity(state)
    return UploadBody(upload=new_upload_id(), files=[])


@uploads_router.post("/uploads/{upload}/files", status_code=201)
def add_files(state: State, caller: Caller, upload: UploadId, files: Files) -> UploadBody:
    """Add images to an upload; an image replaces one of the same name.

    If one is refused, those before it stay.
    """
    lifecycle.check_queue_capacity(state)
    return UploadBody(upload=upload, files=_store_files(state, caller.name, upload, files))


@router.post("/jobs", status_code=201)
def create_job(
    state: State,
    caller: Caller,
    request: JobRequest,
    response: Response,
    idempotency_key: IdempotencyKey = "",
) -> JobBody:
    """Make cutouts of an upload's images, or of a source that the server allows.

    A request may be repeated with its Idempotency-Key: both return the same job.
    """
    if bool(request.upload) == bool(request.source):
        raise UsageError("pass either upload or source")
    lifecycle.check_new_job(state, caller.name, request.on_finish)
    if request.upload:
        source = state.uploads.location(caller.name, request.upload)
        if not state.uploads.count(caller.name, request.upload, 1):
            raise upload_not_found(request.upload)
    else:
        source = lifecycle.check_source(state, request.source)
    job = lifecycle.make_job(state, caller.name, source, request, idempotency_key)
    job = replace(job, include=tuple(request.include))
    return _submit_once(state, job, response, idempotency_key)


@router.post("/jobs/from-images", status_code=201)
def create_job_from_images(
    state: State,
    caller: Caller,
    form: Annotated[JobForm, Form()],
    response: Response,
    idempotency_key: IdempotencyKey = "",
) -> JobBody:
    """Upload images and make cutouts of them in one request; if one is refused, all are."""
    options = form.to_options()
    lifecycle.check_new_job(state, caller.name, options.on_finish)
    upload = _content_id(form.files, idempotency_key) if idempotency_key else new_upload_id()
    source = state.uploads.location(caller.name, upload)
    job = lifecycle.make_job(state, caller.name, source, options, idempotency_key)
    if not _is_repeated(state.jobs, job, idempotency_key):
        _store_files(state, caller.name, upload, form.files)
    return _submit_once(state, job, response, idempotency_key)


@router.get("/jobs")
def list_jobs(
    state: State,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[str, Query(max_length=64)] = "",
) -> JobPage:
    """The caller's jobs, newest first."""
    index = keys.JOBS if caller.everything else keys.of_owner(caller.name)
    client = state.session.client
    rank = cast("int | None", client.zrevrank(index, after)) if after else -1
    if rank is None:
        raise JobNotFound(after)
    names = cast("list[bytes]", client.zrevrange(index, rank + 1, rank + 1 + limit))
    page, bodies = [name.decode() for name in names[:limit]], []
    for name in page:
        with suppress(StoreCorrupted, UsageError):  # forgotten, or not readable
            bodies.append(job_body(state, state.jobs.job(JobId(name))))
    return JobPage(jobs=bodies, next=page[-1] if len(names) > limit else None)


@router.get("/jobs/{job}")
def show_job(state: State, job: OwnJob) -> JobBody:
    return job_body(state, job)


@router.post("/jobs/{job}/cancel")
def cancel_job(state: State, job: OwnJob) -> JobBody:
    """Cancel a job: images in progress are finished, no others are started."""
    with _conflicts():
        state.jobs.cancel(job.id)
    return job_body(state, job)


@router.post("/jobs/{job}/retry")
def retry_job(state: State, job: OwnJob) -> JobBody:
    """Retry the failed images of a finished job."""
    if state.jobs.summary(job.id).state is not JobState.FINISHED:
        raise Problem(409, "conflict", f"job not finished: {job.id}: wait for its end")
    lifecycle.check_queue_capacity(state)
    if job.owner:
        lifecycle.register_job(state, job)
    lease, dispatch = state.session.job_lease(job.id), state.settings.dispatch
    try:
        # The job's last leader may hold the lease a moment longer.
        token = lease.acquire(timeout=dispatch.lease + dispatch.poll)
        with _conflicts():
            state.jobs.retry(job.id, token)
    finally:
        lease.release()
    return job_body(state, job)


@router.delete("/jobs/{job}", status_code=204)
def delete_job(state: State, job: OwnJob) -> None:
    """Forget a closed job, and remove its cutouts if the server stores them."""
    with _conflicts():
        if job.owner:
            lifecycle.remove_folder(state, state.uploads.results_location(job.owner, job.id))
        else:  # a command's
            state.jobs.forget(job.id)


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "events", "content": {"text/event-stream": {"schema": {}}}}
}


@events_router.get("/jobs/{job}/events", response_class=StreamingResponse, responses=STREAM)
def follow_job(
    state: State,
    job: OwnJob,
    last: Annotated[str, Header(alias="Last-Event-ID", max_length=64)] = "",
) -> StreamingResponse:
    """`summary` events with the job's summary, whenever it changes; `end` is the last one.

    Each event is complete: a client that reconnects, with Last-Event-ID, misses and repeats nothing.
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(state, job, last), 200, headers, "text/event-stream")


async def _events(state: AppState, job: Job, last: str) -> AsyncIterator[str]:
    sent = time.monotonic()
    while True:
        try:
            body = asdict(await to_thread.run_sync(job_body, state, job))
        except BgpipeError:
            return  # the client reconnects and gets the error as a response
        stable = {name: value for name, value in body.items() if name not in CLOCKS}
        event_id = hashlib.sha256(json.dumps(stable).encode()).hexdigest()[:16]
        has_ended = body["state"] in CLOSED_STATES
        if event_id != last or has_ended:
            last, sent = event_id, time.monotonic()
            event = "end" if has_ended else "summary"
            yield f"id: {event_id}\nevent: {event}\ndata: {json.dumps(body)}\n\n"
        elif time.monotonic() - sent >= KEEP_ALIVE:
            sent = time.monotonic()
            yield ": keep-alive\n\n"
        if has_ended:
            return
        await anyio.sleep(POLL)


def _store_files(state: AppState, owner: str, upload: str, files: list[UploadFile]) -> list[str]:
    """Store images as `UploadStore.write` does; return their keys, which are distinct.

    Problem 413 if the upload would have too many images.
    """
    maximum, image_bytes = state.settings.serve.files, state.uploads.limits.max_bytes
    if state.uploads.count(owner, upload, maximum + 1) + len(files) > maximum:
        raise Problem(413, "too-many-files", f"too many images: the maximum is {maximum} an upload")
    stored: list[str] = []
    for file in files:
        with file.file, state.image_slots:
            name = _make_distinct(file.filename or "image", stored)
            if (file.size or 0) > image_bytes:
                detail = f"{file.size} bytes: the maximum of an image is {image_bytes}"
                raise PermanentError(Code.TOO_LARGE, detail)
            stored.append(state.uploads.write(owner, upload, name, file.file.read()))
    return stored


def _make_distinct(name: str, others: Collection[str]) -> str:
    """Number the stem of `name` if one of `others` has it: phones reuse names."""
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    number, distinct = 1, name
    while any(re.fullmatch(rf"{re.escape(distinct)}(\.\w+)?", other) for other in others):
        number += 1
        distinct = f"{stem}-{number}{dot}{suffix}"
    return distinct


def _submit_once(state: AppState, job: Job, response: Response, idempotency_key: str) -> JobBody:
    """Submit the job, unless the same request has done so."""
    if not _is_repeated(state.jobs, job, idempotency_key):
        try:
            lifecycle.submit(state, job, list_now=state.uploads.id_at(job.source) is not None)
        except UsageError:
            # A concurrent request with the same key may have made the job.
            if not _is_repeated(state.jobs, job, idempotency_key):
                raise
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job_body(state, job)


def _is_repeated(jobs: JobStore, job: Job, idempotency_key: str) -> bool:
    """Whether the same request has made the job; Problem 422 if the key was another request's."""
    if not idempotency_key:
        return False
    with suppress(JobNotFound):
        if not job.same_as(jobs.job(job.id)):
            raise Problem(422, "key-reused", "this Idempotency-Key was used for another request")
        return True
    return False


def _content_id(files: list[UploadFile], idempotency_key: str) -> str:
    """Return an upload id that depends on the key and on the files' names and contents."""
    digest = hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass"))
    for file in files:
        digest.update(f"\n{file.filename!r} {file.size}\n".encode())
        while chunk := file.file.read(CHUNK_BYTES):
            digest.update(chunk)
        file.file.seek(0)
    return digest.hexdigest()[:48]


@contextmanager
def _conflicts() -> Iterator[None]:
    """Turn the UsageError of a change that the job's state does not allow into a conflict."""
    try:
        yield
    except JobNotFound:
        raise
    except UsageError as error:
        raise Problem(409, "conflict", str(error)) from error
