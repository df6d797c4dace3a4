"""/v1/jobs: jobs are asked for, looked at, ended and taken up again."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from bgpipe.pipeline.http.backend import Backend, TheBackend
from bgpipe.pipeline.http.caller import Caller, TheCaller
from bgpipe.pipeline.http.orders import Wishes, check_room, new_job_name, recipe_of, submit
from bgpipe.pipeline.http.uploads import unknown_upload
from bgpipe.pipeline.ledger import UnknownJob
from bgpipe.pipeline.types import Job, JobId, JobState

router = APIRouter(prefix="/v1", tags=["jobs"])


class JobBody(BaseModel):
    """The summary of a job, as the command line prints it."""

    job: str
    state: JobState
    total: int
    done: int
    skipped: int
    failed: int
    flagged: int
    queued: int
    running: int
    seconds: float
    images_per_second: float
    model: str
    errors: dict[str, int]
    flags: dict[str, int]


class JobRequest(Wishes):
    upload: Annotated[str, Field(max_length=64)]
    """Of POST /v1/uploads."""


class JobForm(BaseModel):
    """A job and its images in one request; the values are those of a job's JSON."""

    model_config = ConfigDict(extra="forbid")

    files: Annotated[list[UploadFile], Field(min_length=1)]
    preset: Annotated[str, Field(max_length=64)] = ""
    model: Annotated[str, Field(max_length=64)] = ""


@router.post("/jobs", status_code=201)
def create_job(backend: TheBackend, caller: TheCaller, request: JobRequest) -> JobBody:
    """Make cutouts of an upload's images."""
    return _open(backend, caller, request.upload, request)


@router.post("/jobs/from-images", status_code=201)
def create_job_from_images(
    backend: TheBackend, caller: TheCaller, form: Annotated[JobForm, Form()]
) -> JobBody:
    """Upload images and make cutouts of them."""
    upload = backend.uploads.new_name()
    for file in form.files:
        backend.uploads.put(caller.name, upload, file.filename or "image", file.file.read())
    return _open(backend, caller, upload, Wishes(preset=form.preset, model=form.model))


@router.get("/jobs/{job}")
def show_job(backend: TheBackend, caller: TheCaller, job: str) -> JobBody:
    return body_of(backend, own_job(backend, caller, job).id)


def own_job(backend: Backend, caller: Caller, name: str) -> Job:
    """The job of this name, if the caller may know of it.

    Raises:
        UnknownJob: there is none, or it is somebody else's.

    """
    job = backend.ledger.job(JobId(name))
    if not caller.everything and job.owner != caller.name:
        raise UnknownJob(f"unknown job: {name}")
    return job


def body_of(backend: Backend, job: JobId) -> JobBody:
    """The job's books as they are now."""
    books = asdict(backend.ledger.books(job))
    del books["source"], books["out"]
    return JobBody(**books)


def _open(backend: Backend, caller: Caller, upload: str, wishes: Wishes) -> JobBody:
    check_room(backend)
    recipe = recipe_of(backend.settings, wishes)
    source = backend.uploads.source(caller.name, upload)
    if not any(True for _ in backend.session.stores.open(source).list(missing_ok=True)):
        raise unknown_upload(upload)
    name = new_job_name()
    out = backend.uploads.results(caller.name, name)
    submit(backend, Job(name, source, out, recipe, time.time(), owner=caller.name))
    return body_of(backend, name)
