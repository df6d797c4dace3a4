"""The bodies of requests and responses under /v1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field

from bgpipe.config.output import OutputOptions
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.jobs.items import ItemState, ItemView
from bgpipe.pipeline.types import Job, JobId, JobState, Output, ReviewFlag

if TYPE_CHECKING:
    from bgpipe.pipeline.http.dependencies import AppState

Value = bool | float | Annotated[str, Field(max_length=40)]
Assignments = Annotated[list[Annotated[str, Field(max_length=80)]], Field(max_length=20)]
Patterns = Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=100)]


class CutoutOptions(OutputOptions):
    """How cutouts are made; omitted values are the server's settings."""

    model_config = ConfigDict(extra="forbid")

    preset: Annotated[str, Field(max_length=64)] = ""
    model: Annotated[str, Field(max_length=64)] = ""
    """A name of GET /v1/options."""
    set: Annotated[dict[str, Value], Field(max_length=20)] = {}  # noqa: RUF012  # pydantic copies it
    """Single values of the preset, such as {"contrast": 1.2}."""
    on_finish: Annotated[str, Field(max_length=2000)] = ""
    """URL that receives the job's summary by POST when it ends; its host must be allowed."""

    @property
    def output(self) -> Output:
        """The output, of the options that are its fields."""
        return Output(**self.model_dump(include={field.name for field in fields(Output)}))


class JobRequest(CutoutOptions):
    """Exactly one of `upload` and `source` is required."""

    upload: Annotated[str, Field(max_length=64)] = ""
    """An id of POST /v1/uploads."""
    source: Annotated[str, Field(max_length=2000)] = ""
    """A folder or s3://bucket/prefix that the server's settings allow."""
    include: Patterns = []  # noqa: RUF012  # pydantic copies it
    """Patterns of image names; without any, all images are done."""


class JobForm(CutoutOptions):
    """A job and its images in one request."""

    files: Annotated[list[UploadFile], Field(min_length=1)]
    set: Assignments = []  # type: ignore[assignment]  # noqa: RUF012  # a form has no objects
    """Single values of the preset, each written like contrast=1.2."""


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
    """As the caller named it; `upload:ID` for an upload."""
    out: str
    """The location of the cutouts."""
    model: str
    interrupted: bool
    """Whether it is open and no dispatcher leads it."""
    errors: dict[str, int]
    """Number of failed images by code."""
    flags: dict[str, int]
    """Number of cutouts to review by reason."""
    created: float
    """Unix time."""
    format: str
    preset: dict[str, Any]


class JobPage(BaseModel):
    jobs: list[JobBody]
    next: str | None
    """The value of `after` for the next page; null on the last one."""


def job_body(state: AppState, job: Job) -> JobBody:
    """Return the summary of `job` as it is now."""
    upload = state.uploads.id_at(job.source)
    is_served = job.owner and job.out == state.uploads.results_location(job.owner, job.id)
    locations = {
        "source": f"upload:{upload}" if upload else job.source,
        "out": f"/v1/jobs/{job.id}/results.zip" if is_served else job.out,
    }
    return JobBody(
        **asdict(state.jobs.summary(job.id)) | locations,
        created=job.created,
        format=job.recipe.output.format,
        preset=asdict(job.recipe.preset),
    )


def job_bodies(state: AppState, names: Iterable[str]) -> list[JobBody]:
    """Return the summaries of these jobs, without those that are gone or cannot be read."""
    bodies = []
    for name in names:
        try:
            bodies.append(job_body(state, state.jobs.job(JobId(name))))
        except (StoreCorrupted, UsageError):
            continue
    return bodies


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
    """The error of a failed image."""
    detail: str | None
    attempts: int | None
    """The attempts of a failed image."""
    flags: list[ReviewFlag]


class ItemPage(BaseModel):
    items: list[ItemBody]
    next: int | None
    """The value of `start` for the next page; null on the last one."""


def item_body(view: ItemView) -> ItemBody:
    item, failure = view.item, view.failure
    return ItemBody(
        index=item.index,
        source=item.source,
        target=item.target,
        state=view.state,
        code=failure.code if failure else None,
        detail=failure.detail if failure else None,
        attempts=failure.attempts if failure else None,
        flags=list(view.flags),
    )


class UploadBody(BaseModel):
    upload: str
    files: list[str]
    """The stored names of this request's images, each with an image's suffix."""


class BrowserSession(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Annotated[str, Field(min_length=1, max_length=200)]


class ModelOption(BaseModel):
    name: str
    summary: str
    here: bool
    """Whether the weights are on the server."""


class Options(BaseModel):
    caller: str
    """The owner of new jobs."""
    presets: dict[str, dict[str, Any]]
    preset: str
    """The default preset."""
    models: list[ModelOption]
    model: str
    formats: list[str]
    files: int
    """Maximum number of images of one upload."""
    file_bytes: int


class Health(BaseModel):
    status: str = "ok"
