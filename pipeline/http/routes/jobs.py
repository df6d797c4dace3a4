"""/v1/jobs: submit, list, cancel, retry and delete jobs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, cast

from fastapi import APIRouter, Form, Header, Query, Response, UploadFile

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.api_keys import ApiKey
from bgpipe.pipeline.http.dependencies import KEYED, AppState, Caller, OwnJob, State
from bgpipe.pipeline.http.downloads import CHUNK_BYTES
from bgpipe.pipeline.http.problems import DOCUMENTED, Problem
from bgpipe.pipeline.http.routes.uploads import store_files
from bgpipe.pipeline.http.schemas import (
    CutoutOptions,
    JobBody,
    JobForm,
    JobPage,
    JobRequest,
    job_bodies,
    job_body,
)
from bgpipe.pipeline.http.submission import (
    check_open_jobs,
    check_queue_capacity,
    check_source,
    check_webhook,
    new_request_job_id,
    recipe_of,
    register_job,
    submit,
    touch_folder,
)
from bgpipe.pipeline.http.uploads import upload_not_found
from bgpipe.pipeline.jobs.store import JobNotFound, JobStore
from bgpipe.pipeline.planning.recipe import explain
from bgpipe.pipeline.types import Job, JobId, JobState

router = APIRouter(prefix="/v1", tags=["jobs"], responses=DOCUMENTED, dependencies=KEYED)

IdempotencyKey = Annotated[str, Header(alias="Idempotency-Key", max_length=255)]


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
    _check_capacity(state, caller, request)
    if request.upload:
        source = state.uploads.location(caller.name, request.upload)
        if not state.uploads.count(caller.name, request.upload, 1):
            raise upload_not_found(request.upload)
        touch_folder(state, f"{caller.name}/uploads/{request.upload}")
    else:
        source = check_source(state, request.source)
    job = _make_job(state, caller, source, request, idempotency_key)
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
    options = _cutout_options(form)
    _check_capacity(state, caller, options)
    upload = _content_id(form.files, idempotency_key) if idempotency_key else state.uploads.new_id()
    source = state.uploads.location(caller.name, upload)
    job = _make_job(state, caller, source, options, idempotency_key)
    if not _is_repeated(state.jobs, job, idempotency_key):
        touch_folder(state, f"{caller.name}/uploads/{upload}")
        store_files(state, caller.name, upload, form.files)
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
    page = [name.decode() for name in names[:limit]]
    has_more = len(names) > limit
    return JobPage(jobs=job_bodies(state, page), next=page[-1] if has_more else None)


@router.get("/jobs/{job}")
def show_job(state: State, job: OwnJob) -> JobBody:
    return job_body(state, job)


@router.post("/jobs/{job}/cancel")
def cancel_job(state: State, job: OwnJob) -> JobBody:
    """Cancel a job: images in progress are finished, no others are started."""
    _change(state.jobs.cancel, job.id)
    return job_body(state, job)


@router.post("/jobs/{job}/retry")
def retry_job(state: State, job: OwnJob) -> JobBody:
    """Retry the failed images of a finished job."""
    if state.jobs.summary(job.id).state is not JobState.FINISHED:
        raise Problem(409, "conflict", f"job not finished: {job.id}: wait for its end")
    check_queue_capacity(state)
    if job.owner:
        register_job(state, job)
    lease, dispatch = state.session.lease(keys.lease_of_job(job.id)), state.settings.dispatch
    try:
        # The job's last leader may hold the lease a moment longer.
        token = lease.acquire(timeout=dispatch.lease + dispatch.poll)
        _change(lambda job_id: state.jobs.retry(job_id, token), job.id)
    finally:
        lease.release()
    return job_body(state, job)


@router.delete("/jobs/{job}", status_code=204)
def delete_job(state: State, job: OwnJob) -> None:
    """Forget a closed job, and remove its cutouts if the server stores them."""
    _change(state.jobs.forget, job.id)
    state.session.client.zrem(keys.of_owner(job.owner), job.id)
    if job.owner and job.out == state.uploads.results_location(job.owner, job.id):
        state.session.stores.open(job.out).clear()


def _check_capacity(state: AppState, caller: ApiKey, options: CutoutOptions) -> None:
    check_queue_capacity(state)
    check_open_jobs(state, caller.name)
    check_webhook(state.settings.serve, options.on_finish)


def _cutout_options(form: JobForm) -> CutoutOptions:
    pairs = [assignment.partition("=") for assignment in form.set]
    try:
        return CutoutOptions(
            **form.model_dump(exclude={"files", "set"}),
            set={field: value for field, _, value in pairs},
        )
    except ValueError as error:
        raise UsageError(explain(error)) from error


def _make_job(
    state: AppState, caller: ApiKey, source: str, options: CutoutOptions, idempotency_key: str
) -> Job:
    job_id = new_request_job_id(caller.name, idempotency_key)
    return Job(
        job_id,
        source,
        state.uploads.results_location(caller.name, job_id),
        recipe_of(state.settings, options),
        created=time.time(),
        owner=caller.name,
        on_finish=options.on_finish,
    )


def _submit_once(state: AppState, job: Job, response: Response, idempotency_key: str) -> JobBody:
    """Submit the job, unless the same request has done so."""
    if not _is_repeated(state.jobs, job, idempotency_key):
        try:
            submit(state, job, list_now=state.uploads.id_at(job.source) is not None)
        except UsageError:
            # A concurrent request with the same key may have made the job.
            if not _is_repeated(state.jobs, job, idempotency_key):
                raise
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job_body(state, job)


def _is_repeated(jobs: JobStore, job: Job, idempotency_key: str) -> bool:
    """Whether the same request has made the job already.

    Raises:
        Problem: 422: the key was used for another request.

    """
    if not idempotency_key:
        return False
    try:
        existing = jobs.job(job.id)
    except JobNotFound:
        return False
    if not job.same_as(existing):
        raise Problem(422, "key-reused", "this Idempotency-Key was used for another request")
    return True


def _content_id(files: list[UploadFile], idempotency_key: str) -> str:
    """Return an upload id that depends on the key and on the files' names and contents."""
    digest = hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass"))
    for file in files:
        digest.update(f"\n{file.filename!r} {file.size}\n".encode())
        while chunk := file.file.read(CHUNK_BYTES):
            digest.update(chunk)
        file.file.seek(0)
    return digest.hexdigest()[:48]


def _change(change: Callable[[JobId], object], job_id: JobId) -> None:
    """Change a job's state; a UsageError becomes a conflict."""
    try:
        change(job_id)
    except JobNotFound:
        raise
    except UsageError as error:
        raise Problem(409, "conflict", str(error)) from error
