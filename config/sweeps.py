"""Sweeps: jobs that are repeated, so that a target keeps up with its source."""

import base64
from datetime import UTC, datetime, time
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, ConfigDict, Field, SecretStr

from bgpipe.config.output import Compression, Depth, OutputOptions
from bgpipe.config.presets import FinishOptions


def _cron(expression: str) -> str:
    message = "write minute, hour, day, month, weekday"
    if expression and len(expression.split()) != 5:  # CronSim takes a sixth for seconds
        raise ValueError(f"wrong number of fields; {message}")
    if expression:
        try:
            CronSim(expression, datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"{error}; {message}") from error
    return expression


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError("unknown time zone; an example: Europe/Berlin") from error
    return name


def _web_address(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("not an http:// or https:// address")
    return url


def _webhook_secret(secret: SecretStr) -> SecretStr:
    prefix, _, encoded = secret.get_secret_value().partition("_")
    if prefix == "whsec":
        base64.b64decode(encoded, validate=True)  # the ValueError says what is wrong
    return secret


WebhookSecret = Annotated[SecretStr, AfterValidator(_webhook_secret)]
SweepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class Sweep(OutputOptions, FinishOptions):
    """`[sweeps.NAME]` of the settings; the names of its jobs begin with NAME.

    None and empty names mean the values of the preset, [refine], [model], [matting] and [prune].
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, Field(min_length=1)]
    target: Annotated[str, Field(min_length=1)]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    preset: str = ""
    model: str = ""
    matting: str = ""
    png: Compression = "fast"
    depth: Depth = 8
    overwrite: bool = False
    """Replace files at the target that bgpipe did not make."""
    name: str = ""
    """Template of the targets' names; empty: the sources' names."""
    outputs: tuple[str, ...] = ()
    """Names of [outputs]: a file of each image for each of them."""
    prune: bool = False
    """Remove the cutouts whose source is gone, in each run."""
    prune_most: Annotated[float, Field(ge=0, le=1)] | None = None
    """Maximum share of the cutouts that a run removes."""
    schedule: Annotated[str, AfterValidator(_cron)] = ""
    """A cron expression; empty: started by hand only."""
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Time zone of schedule and deadline."""
    deadline: time | None = None
    """Time of day at which a run stops; the next run continues."""
    on_finish: Annotated[str, AfterValidator(_web_address)] = ""
    """URL that receives the summary of a finished run."""
    secret: WebhookSecret = SecretStr("")
    """Signs the summary: whsec_ and Base64, or any text. Preferably set in the environment:
    BGPIPE_SWEEPS__NAME__SECRET."""
