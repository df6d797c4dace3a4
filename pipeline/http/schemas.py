"""A job as answers show it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.http.dependencies import AppState
from bgpipe.pipeline.types import Job, JobId, JobState, JobSummary


class JobBody(BaseModel):
    """The summary of a job: once finished, total = done + skipped + failed."""

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
    source: str
    """What the caller named; of an upload `upload:NAME`."""
    out: str
    """Where the cutouts are to be had."""
    model: str
    interrupted: bool
    """Whether it is open and no dispatcher leads it."""
    errors: dict[str, int]
    """How many images failed, by code."""
    flags: dict[str, int]
    """How many cutouts somebody should look at, by reason."""
    created: float
    """Unix time."""
    format: str
    preset: dict[str, Any]


def body_of(backend: AppState, job: Job) -> JobBody:
    """The job's books as they are now."""
    return make_body(backend, job, backend.jobs.summary(job.id))


def bodies_of(backend: AppState, names: Iterable[str]) -> list[JobBody]:
    """The jobs of these names, without those that are gone or cannot be read."""
    found = []
    for name in names:
        try:
            found.append(body_of(backend, backend.jobs.job(JobId(name))))
        except (StoreCorrupted, UsageError):
            continue
    return found


def make_body(backend: AppState, job: Job, summary: JobSummary) -> JobBody:
    upload = backend.uploads.name_of(job.source)
    kept_here = job.owner and job.out == backend.uploads.results(job.owner, job.id)
    places = {
        "source": f"upload:{upload}" if upload else job.source,
        "out": f"/v1/jobs/{job.id}/results.zip" if kept_here else job.out,
    }
    return JobBody(
        **asdict(summary) | places,
        created=job.created,
        format=job.recipe.output.format,
        preset=asdict(job.recipe.preset),
    )
