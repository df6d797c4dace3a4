"""A request becomes a job of the ledger, and the first of its images messages of the queue."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from bgpipe.config.output import Format, InputAlpha
from bgpipe.pipeline import keys, recipes, registry
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.producer import list_job
from bgpipe.pipeline.types import Job, JobId, Output, Recipe

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.http.backend import Backend
    from bgpipe.pipeline.types import Books, Preset

PAUSE = 10
"""Seconds after which there may be room in a queue that is full."""

Value = bool | float | Annotated[str, Field(max_length=40)]


class Wishes(BaseModel):
    """How the cutouts are made; what is left out is as the server's settings say."""

    model_config = ConfigDict(extra="forbid")

    preset: Annotated[str, Field(max_length=64)] = ""
    model: Annotated[str, Field(max_length=64)] = ""
    """A name of GET /v1/choices."""
    set: Annotated[dict[str, Value], Field(max_length=20)] = {}
    """Single values of the preset, such as {"contrast": 1.2}."""
    format: Format = "png"
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    input_alpha: InputAlpha = "multiply"


def recipe_of(settings: Settings, wishes: Wishes) -> Recipe:
    """The recipe that a caller asks for.

    Raises:
        UsageError: a name or a value is wrong.
        ModelUnavailable: the weights are not on this machine; nothing is pulled for a caller.

    """
    output = Output(format=wishes.format, quality=wishes.quality, input_alpha=wishes.input_alpha)
    preset = recipes.preset_named(settings, wishes.preset or settings.refine.preset)
    return make_recipe(settings, wishes.model, recipes.changed(preset, wishes.set), output)


def make_recipe(settings: Settings, model: str, preset: Preset, output: Output) -> Recipe:
    """The recipe of a model's name, empty for that of the settings, and checked values.

    Raises as `recipe_of`.
    """
    name = model or settings.model.name
    # A path would tell callers what the server's disk holds; the settings may have one.
    if model and model not in (registry.AUTO, *registry.models()):
        raise UsageError(f"unknown model: {model} (there are {', '.join(registry.models())})")
    weights, _ = recipes.choose_model(settings, name, pull=False)
    matting = recipes.choose_matting(settings, settings.matting.model, pull=False)
    recipe = Recipe(weights.name, weights.sha256, weights.size, preset, output, matting)
    recipes.check_output(recipe, "")
    return recipe


def new_job_name() -> JobId:
    """Sorts by time; nobody can guess it."""
    return JobId(f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(8)}")


def submit(backend: Backend, job: Job) -> Books:
    """Open `job`, list it, and publish what the queue has room for; a dispatcher does the rest.

    Raises:
        UsageError: there is another job of this name.
        Occupied: another job reads the same and writes to the same place.
        NoImages: its source is empty.

    """
    session = backend.session
    session.client.zadd(keys.of_owner(job.owner), {job.id: job.created})
    lease = session.lease(keys.lease_of_job(job.id))
    token = lease.take()  # before others can see the job and miss its leader
    try:
        session.ledger.open(job)
        list_job(
            session.ledger,
            job,
            session.stores.open(job.source),
            session.stores.open(job.out),
            token,
        )
        session.leader(job.id, lease).turn(session.feeder.room())
    finally:
        lease.free()
    return session.ledger.books(job.id)


def check_room(backend: Backend) -> None:
    """Refuse new work while the queue is above its mark.

    Raises:
        Problem: 429 with Retry-After.

    """
    depth, mark = backend.session.feeder.depth(), backend.settings.serve.queue_mark
    if depth >= mark:
        raise Problem(
            429, "queue-full", f"the queue is full: {depth} images wait: come back", PAUSE
        )
