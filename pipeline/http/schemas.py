"""The bodies of requests and responses under /v1."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from bgpipe.config.output import OutputOptions
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.dependencies import AppState
from bgpipe.pipeline.jobs.items import ItemState, ItemView
from bgpipe.pipeline.planning.recipe import explain
from bgpipe.pipeline.types import Job, JobSummary, ReviewFlag

Value = bool | float | Annotated[str, Field(max_length=40)]
Assignment = Annotated[str, Field(max_length=80)]
Patterns = Annotated[list[Annotated[str, Field(max_length=2000)]], Field(max_length=100)]


class CutoutOptions(OutputOptions):
    """How cutouts are made; omitted values are the server's settings."""

    model_config = ConfigDict(extra="forbid")

    preset: Annotated[str, Field(max_length=64)] = ""
    model: Annotated[str, Field(max_length=64)] = ""
    """A name of GET /v1/options."""
    set: Annotated[dict[str, Value], Field(max_length=20)] = {}  # noqa: RUF012  # pydantic copies it
    """Single values of the preset, such as {"contrast": 1.2}."""
    outputs: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=20)] = []  # noqa: RUF012  # pydantic copies it
    """Names of GET /v1/options: a file of each image for each of them."""
    review_below: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Cutouts with a lower score are flagged; 0: the server's setting."""
    on_finish: Annotated[str, Field(max_length=2000)] = ""
    """URL that receives the job's summary by POST when it ends; its host must be allowed."""


class JobRequest(CutoutOptions):
    """Exactly one of `upload` and `source` is required."""

    upload: Annotated[str, Field(max_length=64)] = ""
    """An id of POST /v1/uploads."""
    source: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")] = ""
    """A folder or s3://bucket/prefix that the server's settings allow."""
    include: Patterns = []  # noqa: RUF012  # pydantic copies it
    """Patterns of image names; without any, all images are done."""


class JobForm(CutoutOptions):
    """A job and its images in one request."""

    files: Annotated[list[UploadFile], Field(min_length=1)]
    set: Annotated[list[Assignment], Field(max_length=20)] = []  # type: ignore[assignment]  # noqa: RUF012  # a form has no objects
    """Single values of the preset, each written like contrast=1.2."""

    def to_options(self) -> CutoutOptions:
        """Return the options; raises UsageError if a value of `set` is too long."""
        pairs = [assignment.partition("=") for assignment in self.set]
        values: dict[str, Value] = {field: value for field, _, value in pairs}
        try:
            return CutoutOptions(**self.model_dump(exclude={"files", "set"}), set=values)
        except ValueError as error:
            raise UsageError(explain(error)) from error


@dataclass(
    frozen=True, kw_only=True, config=ConfigDict(json_schema_serialization_defaults_required=True)
)
class JobBody(JobSummary):
    """`source` is as the caller named it, `upload:ID` for an upload; `out` serves the cutouts."""

    interrupted: bool
    paused: str
    errors: dict[str, int]
    flags: dict[str, int]
    outputs: dict[str, dict[str, int]]
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
    outputs: dict[str, str]
    """The names below the job's results of its named outputs, of which `target` is the first."""
    score: float | None
    """Expected IoU of the matte, from 0 to 1, if known."""


class ItemPage(BaseModel):
    items: list[ItemBody]
    next: int | None
    """The value of `start` for the next page; null on the last one."""


def item_body(job: Job, view: ItemView) -> ItemBody:
    values: dict[str, Any] = dict.fromkeys(("code", "detail", "attempts"))
    values |= asdict(view.failure or view.item)
    names = [output.name for output in job.outputs]
    outputs = dict(zip(names, view.item.targets, strict=False))
    values |= {"flags": list(view.flags), "score": view.score, "outputs": outputs}
    return ItemBody(**values, state=view.state)


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
    outputs: list[str]
    """The named outputs of the server's settings."""
    files: int
    """Maximum number of images of one upload."""
    file_bytes: int


class Health(BaseModel):
    status: str = "ok"
