"""A request becomes a job of the ledger, and the first of its images messages of the queue."""

from __future__ import annotations

import hashlib
import os.path
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from bgpipe.config.output import Format, InputAlpha
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import NoImages, UsageError
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.jobs.store import new_job_id
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning import recipe as recipes
from bgpipe.pipeline.planning.planner import list_job
from bgpipe.pipeline.storage.base import contains, is_safe_key
from bgpipe.pipeline.types import Job, JobId, Output, Recipe

if TYPE_CHECKING:
    from bgpipe.config.settings import ServeSettings, Settings
    from bgpipe.pipeline.broker.lease import Lease
    from bgpipe.pipeline.http.dependencies import AppState
    from bgpipe.pipeline.session import Session
    from bgpipe.pipeline.types import Preset

PAUSE = 10
"""Seconds after which there may be room in a queue that is full."""
SHORT_PAUSE = 0.1
"""Seconds between two tries to take a lease."""

Value = bool | float | Annotated[str, Field(max_length=40)]


class CutoutOptions(BaseModel):
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
    on_finish: Annotated[str, Field(max_length=2000)] = ""
    """Address that gets the job's books by POST once it is over; its host has to be allowed."""


def recipe_of(settings: Settings, wishes: CutoutOptions) -> Recipe:
    """The recipe that a caller asks for.

    Raises:
        UsageError: a name or a value is wrong.
        ModelUnavailable: the weights are not on this machine; nothing is pulled for a caller.

    """
    output = Output(format=wishes.format, quality=wishes.quality, input_alpha=wishes.input_alpha)
    preset = recipes.preset_named(settings, wishes.preset or settings.refine.preset)
    return make_recipe(settings, wishes.model, recipes.apply_changes(preset, wishes.set), output)


def make_recipe(settings: Settings, model: str, preset: Preset, output: Output) -> Recipe:
    """The recipe of a model's name, empty for that of the settings, and checked values.

    Raises as `recipe_of`.
    """
    # A path would tell callers what the server's disk holds; the settings may have one.
    if model and model not in (registry.AUTO, *registry.read_models()):
        raise UsageError(f"unknown model: {model} (there are {', '.join(registry.read_models())})")
    weights, _ = recipes.choose_model(settings, model or settings.model.name, pull=False)
    matting = recipes.choose_matting(settings, settings.matting.model, pull=False)
    recipe = Recipe(weights.name, weights.sha256, weights.size, preset, output, matting)
    recipes.check_output(recipe, "")
    return recipe


def new_job_name(owner: str = "", idempotency_key: str = "") -> JobId:
    """A name that nobody can guess, which sorts by time; with a key always the same one."""
    if idempotency_key:
        text = f"{owner}/{idempotency_key}"
        return JobId(f"once-{hashlib.sha256(text.encode()).hexdigest()[:32]}")
    return new_job_id(random_bytes=8)


def submit(backend: AppState, job: Job, *, listed: bool = True) -> None:
    """Open `job`, list it, and publish what the queue has room for; a dispatcher does the rest.

    Unless it is to be `listed` now: then the attendant of one of the servers does that.

    Raises:
        UsageError: there is another job of this name.
        Occupied: another job reads the same and writes to the same place.
        NoImages: its source is empty.

    """
    session = backend.session
    register_job(backend, job)
    lease = session.lease(keys.lease_of_job(job.id))
    token = lease.acquire()  # before others can see the job and miss its leader
    try:
        session.jobs.open(job)
        if listed:
            _list(session, job, token)
            session.controller(job.id, lease).step(session.feeder.capacity())
    finally:
        lease.release()


def finish_listing(backend: AppState, job: JobId) -> None:
    """List a job that was opened and not listed, unless somebody does; raises as `submit`."""
    session = backend.session
    lease = session.lease(keys.lease_of_job(job))
    token = lease.acquire()
    if not token:
        return
    with lease.renewing():
        order = session.jobs.job(job)
        _list(session, order, token)


def _list(session: Session, job: Job, token: int) -> None:
    source, target = session.stores.open(job.source), session.stores.open(job.out)
    # A folder of an upload is written to once: a catalog of it would serve nobody and stay.
    catalogs = session.catalogs if target.is_remote else None
    list_job(session.jobs, catalogs, job, source, target, token)


def take_over(backend: AppState, lease: Lease) -> int:
    """The token of a job that is over; who led it to its end may hold it a moment longer."""
    settings = backend.settings.dispatch
    deadline = time.monotonic() + settings.lease + settings.poll
    while not (token := lease.acquire()) and time.monotonic() < deadline:
        time.sleep(SHORT_PAUSE)
    return token


def touch_upload(backend: AppState, folder: str) -> None:
    """Note that a folder below the uploads' root is used now; it is removed some days later."""
    backend.session.client.zadd(keys.FOLDERS, {folder: time.time()})


def check_queue_capacity(backend: AppState) -> None:
    """Refuse new work while the queue is above its mark.

    Raises:
        Problem: 429 with Retry-After.

    """
    depth, mark = backend.session.feeder.depth(), backend.settings.serve.queue_mark
    if depth >= mark:
        raise Problem(
            429, "queue-full", f"the queue is full: {depth} images wait: come back", PAUSE
        )


def check_open_jobs(backend: AppState, owner: str) -> None:
    """Refuse one more job of a caller who has many.

    Raises:
        Problem: 429 with Retry-After.

    """
    count, most = (
        backend.session.client.scard(keys.of_open_jobs(owner)),
        backend.settings.serve.open_jobs,
    )
    if int(count) >= most:
        raise Problem(429, "too-many-jobs", f"{count} jobs are open: wait for their ends", PAUSE)


def allowed_source(backend: AppState, source: str) -> str:
    """The location that a caller names, if it lies below one that the settings allow.

    Raises:
        Problem: 403, it does not.
        NoImages: there is none in it.

    """
    settings = backend.settings.serve
    location = source.rstrip("/")
    if not (_is_absolute(location) and any(contains(root, location) for root in settings.sources)):
        raise Problem(403, "source-not-allowed", "not below a place that sources of [serve] names")
    if next(backend.session.stores.open(location).list(missing_ok=True), None) is None:
        raise NoImages(f"no images: {source}")
    return location


def check_webhook(settings: ServeSettings, url: str) -> None:
    """Refuse an address that the settings do not allow: the server must not be a way into its network.

    Raises:
        Problem: 403, the host is not allowed.

    """
    if not url:
        return
    try:
        parts = urlsplit(url)
        host, known = parts.hostname or "", parts.scheme in {"http", "https"}
    except ValueError:
        host, known = "", False
    if not known or not any(fnmatchcase(host, pattern) for pattern in settings.webhook_hosts):
        raise Problem(403, "webhook-not-allowed", "not a host that webhook_hosts of [serve] names")


def register_job(backend: AppState, job: Job) -> None:
    """Put a job on the lists of its caller and of the attendants, before it is begun."""
    client, member = backend.session.client, f"{job.owner}/{job.id}"
    client.zadd(keys.of_owner(job.owner), {job.id: job.created})
    client.sadd(keys.of_open_jobs(job.owner), job.id)
    client.zadd(keys.SERVED, {member: job.created})
    touch_upload(backend, f"{job.owner}/results/{job.id}")


def _is_absolute(location: str) -> bool:
    if "://" in location:
        return is_safe_key(location.removeprefix("s3://"))
    return os.path.isabs(location)  # noqa: PTH117  # of the server, not of a Path
