"""What a sweep is: a job that is run again and again, so that a target keeps up with its source."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from bgpipe.config.output import Format, InputAlpha
from bgpipe.config.presets import Anchor


def _cron(expression: str) -> str:
    if expression:
        try:
            CronSim(expression, datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"{error}; write minute, hour, day, month, weekday") from error
    return expression


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError("unknown time zone; write it like Europe/Berlin") from error
    return name


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("not an http:// or https:// address")
    return url


SweepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class Sweep(BaseModel):
    """`[sweeps.NAME]` of the settings; NAME begins the names of its jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, Field(min_length=1)]
    target: Annotated[str, Field(min_length=1)]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    preset: str = ""
    """Empty: that of [refine]."""
    model: str = ""
    """Empty: that of [model]."""
    matting: str = ""
    """Empty: that of [matting]."""
    format: Format = "png"
    png: Literal["fast", "small"] = "fast"
    depth: Literal[8, 16] = 8
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    input_alpha: InputAlpha = "multiply"
    overwrite: bool = False
    """Replace files at the target that bgpipe did not make."""
    name: str = ""
    """A template of the targets' names. Empty: those of the sources."""
    crop: bool | None = None
    """Here and below, what is left out is the preset's."""
    margin: float | None = None
    canvas: str | None = None
    place: Anchor | None = None
    background: str | None = None
    """A colour, or the path of an image."""
    shadow: float | None = None
    prune: bool = False
    """Remove the cutouts whose source is gone, before each run."""
    prune_most: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the cutouts that may be removed; None: that of [prune]."""
    schedule: Annotated[str, AfterValidator(_cron)] = ""
    """A cron expression. Empty: only by hand."""
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Of schedule and deadline."""
    deadline: time | None = None
    """Time of day at which a run stops; the next one goes on."""
    on_finish: Annotated[str, AfterValidator(_web_address)] = ""
    """Address that gets the books when a run has finished."""
    secret: SecretStr = SecretStr("")
    """Signs what on_finish gets. Better from the environment: BGPIPE_SWEEPS__NAME__SECRET."""
