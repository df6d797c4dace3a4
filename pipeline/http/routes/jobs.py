"""/v1/jobs: jobs are asked for, looked at, ended and taken up again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Annotated, cast

from fastapi import APIRouter, Form, Header, Query, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.api_keys import ApiKey
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, State
from bgpipe.pipeline.http.downloads import PIECE
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem
from bgpipe.pipeline.http.routes.uploads import store_files
from bgpipe.pipeline.http.schemas import JobBody, bodies_of, body_of
from bgpipe.pipeline.http.submission import (
    CutoutOptions,
    allowed_source,
    check_open_jobs,
    check_queue_capacity,
    check_webhook,
    new_job_name,
    recipe_of,
    register_job,
    submit,
    take_over,
    touch_upload,
)
from bgpipe.pipeline.http.uploads import unknown_upload
from bgpipe.pipeline.jobs.store import JobNotFound, JobStore
from bgpipe.pipeline.planning.recipe import explain
from bgpipe.pipeline.types import Job, JobId, JobState

router = APIRouter(prefix="/v1", tags=["jobs"], responses=DOCUMENTED, dependencies=KEYED)

Once = Annotated[str, Header(alias="Idempotency-Key", max_length=255)]


class JobRequest(CutoutOptions):
    """Exactly one of `upload` and `source` is given."""

    upload: Annotated[str, Field(max_length=64)] = ""
    """Of POST /v1/uploads."""
    source: Annotated[str, Field(max_length=2000)] = ""
    """A folder or s3://bucket/prefix that the server's settings allow."""


class JobForm(BaseModel):
    """A job and its images in one request."""

    model_config = ConfigDict(extra="forbid")

    files: Annotated[list[UploadFile], Field(min_length=1)]
    preset: Annotated[str, Field(max_length=64)] = ""
    model: Annotated[str, Field(max_length=64)] = ""
    set: Annotated[list[Annotated[str, Field(max_length=80)]], Field(max_length=20)] = []
    """Single values of the preset, each written like contrast=1.2."""
    format: Annotated[str, Field(max_length=8)] = "png"
    on_finish: Annotated[str, Field(max_length=2000)] = ""


class JobPage(BaseModel):
    jobs: list[JobBody]
    next: str | None
    """What `after` is for the next page; null on the last one."""


@router.post("/jobs", status_code=201)
def create_job(
    backend: State,
    caller: Caller,
    request: JobRequest,
    response: Response,
    once: Once = "",
) -> JobBody:
    """Make cutouts of an upload's images, or of a source that the server allows.

    With an Idempotency-Key the same request may be sent again: the job is the same.
    """
    if bool(request.upload) == bool(request.source):
        raise UsageError("name either an upload or a source")
    _check_capacity(backend, caller, request)
    if request.upload:
        source = backend.uploads.source(caller.name, request.upload)
        if not backend.uploads.count(caller.name, request.upload, 1):
            raise unknown_upload(request.upload)
        touch_upload(backend, f"{caller.name}/uploads/{request.upload}")
    else:
        source = allowed_source(backend, request.source)
    return _open(backend, _job(backend, caller, source, request, once), response, once)


@router.post("/jobs/from-images", status_code=201)
def create_job_from_images(
    backend: State,
    caller: Caller,
    form: Annotated[JobForm, Form()],
    response: Response,
    once: Once = "",
) -> JobBody:
    """Upload images and make cutouts of them in one request; if one is refused, all are."""
    wishes = _wishes(form)
    _check_capacity(backend, caller, wishes)
    upload = _content_name(form.files, once) if once else backend.uploads.new_name()
    job = _job(backend, caller, backend.uploads.source(caller.name, upload), wishes, once)
    if not _is_repeated(backend.jobs, job, once):
        touch_upload(backend, f"{caller.name}/uploads/{upload}")
        store_files(backend, caller.name, upload, form.files)
    return _open(backend, job, response, once)


@router.get("/jobs")
def list_jobs(
    backend: State,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[str, Query(max_length=64)] = "",
) -> JobPage:
    """The caller's jobs, the newest first."""
    index = keys.JOBS if caller.everything else keys.of_owner(caller.name)
    client = backend.session.client
    rank = cast("int | None", client.zrevrank(index, after)) if after else -1
    if rank is None:
        raise JobNotFound(f"unknown job: {after}")
    found = cast("list[bytes]", client.zrevrange(index, rank + 1, rank + 1 + limit))
    names = [name.decode() for name in found]
    bodies = bodies_of(backend, names[:limit])
    return JobPage(jobs=bodies, next=names[limit - 1] if len(names) > limit else None)


@router.get("/jobs/{job}")
def show_job(backend: State, caller: Caller, job: str) -> JobBody:
    return body_of(backend, backend.job(caller, job))


@router.post("/jobs/{job}/cancel")
def cancel_job(backend: State, caller: Caller, job: str) -> JobBody:
    """End a job: what is in flight is finished, nothing else is begun."""
    order = backend.job(caller, job)
    _change(backend.jobs.cancel, order.id)
    return body_of(backend, order)


@router.post("/jobs/{job}/retry")
def retry_job(backend: State, caller: Caller, job: str) -> JobBody:
    """Do the images of a finished job again that failed, and no others."""
    order = backend.job(caller, job)
    if backend.jobs.summary(order.id).state is not JobState.FINISHED:
        raise Problem(409, "conflict", f"job {order.id} has not finished: wait for its end")
    check_queue_capacity(backend)
    lease = backend.session.lease(keys.lease_of_job(order.id))
    if order.owner:
        register_job(backend, order)
    try:
        _change(lambda name: backend.jobs.retry(name, take_over(backend, lease)), order.id)
    finally:
        lease.release()
    return body_of(backend, order)


@router.delete("/jobs/{job}", status_code=204)
def delete_job(backend: State, caller: Caller, job: str) -> None:
    """Forget a job that is over, and remove its cutouts if they are the server's to keep."""
    order = backend.job(caller, job)
    _change(backend.jobs.forget, order.id)
    backend.session.client.zrem(keys.of_owner(order.owner), order.id)
    if order.owner and order.out == backend.uploads.results(order.owner, order.id):
        backend.session.stores.open(order.out).clear()


def _check_capacity(backend: AppState, caller: ApiKey, wishes: CutoutOptions) -> None:
    check_queue_capacity(backend)
    check_open_jobs(backend, caller.name)
    check_webhook(backend.settings.serve, wishes.on_finish)


def _wishes(form: JobForm) -> CutoutOptions:
    pairs = [assignment.partition("=") for assignment in form.set]
    try:
        return CutoutOptions(
            preset=form.preset,
            model=form.model,
            set={field: value for field, _, value in pairs},
            format=form.format,  # type: ignore[arg-type]  # checked as it is made
            on_finish=form.on_finish,
        )
    except ValueError as error:
        raise UsageError(explain(error)) from error


def _job(backend: AppState, caller: ApiKey, source: str, wishes: CutoutOptions, once: str) -> Job:
    name = new_job_name(caller.name, once)
    return Job(
        name,
        source,
        backend.uploads.results(caller.name, name),
        recipe_of(backend.settings, wishes),
        created=time.time(),
        owner=caller.name,
        on_finish=wishes.on_finish,
    )


def _open(backend: AppState, job: Job, response: Response, once: str) -> JobBody:
    """Submit the job, unless the same request has done so."""
    if not _is_repeated(backend.jobs, job, once):
        try:
            submit(backend, job, listed=backend.uploads.name_of(job.source) is not None)
        except UsageError:
            # Two requests with one key at a time: the first one has made the job.
            if not _is_repeated(backend.jobs, job, once):
                raise
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return body_of(backend, job)


def _is_repeated(job_store: JobStore, job: Job, once: str) -> bool:
    """Whether the same request has made the job already.

    Raises:
        Problem: 422, the key was used for another one.

    """
    if not once:
        return False
    try:
        known = job_store.job(job.id)
    except JobNotFound:
        return False
    if not job.same_as(known):
        raise Problem(422, "key-reused", "this Idempotency-Key was used for another request")
    return True


def _content_name(files: list[UploadFile], once: str) -> str:
    """A name of an upload that is the same for the same key, names and contents."""
    total = hashlib.sha256(once.encode("utf-8", "surrogatepass"))
    for file in files:
        total.update(f"\n{file.filename!r} {file.size}\n".encode())
        while piece := file.file.read(PIECE):
            total.update(piece)
        file.file.seek(0)
    return total.hexdigest()[:48]


def _change(verb: Callable[[JobId], object], job: JobId) -> None:
    """Let the ledger change a job's state; what its state does not allow is a conflict."""
    try:
        verb(job)
    except JobNotFound:
        raise
    except UsageError as error:
        raise Problem(409, "conflict", str(error)) from error
