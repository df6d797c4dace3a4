"""From a request to a job: checks, recipe, submission."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import NoImages, UsageError
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.jobs.scripts import run_script
from bgpipe.pipeline.jobs.store import new_job_id
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning import recipe as recipes
from bgpipe.pipeline.scheduling.dispatcher import JobController
from bgpipe.pipeline.scheduling.submission import list_and_start, open_job
from bgpipe.pipeline.storage.base import S3, contains, is_safe_key
from bgpipe.pipeline.types import Job, JobId, Output

if TYPE_CHECKING:
    from bgpipe.pipeline.http.dependencies import AppState
    from bgpipe.pipeline.http.schemas import CutoutOptions

RETRY_AFTER = 10
"""Seconds after which a full queue may have room."""


def make_job(
    state: AppState, owner: str, source: str, options: CutoutOptions, idempotency_key: str = ""
) -> Job:
    """Return the job of a request, with the same id for the same idempotency key.

    Other ids sort by time; none can be guessed.

    Raises:
        UsageError: a name or a value is wrong.
        ModelUnavailable: the weights are not on this machine; a request pulls nothing.
    """
    # A path would reveal which files the server has; only the settings may name one.
    models = (registry.AUTO, *registry.read_models())
    if options.model and options.model not in models:
        raise UsageError(f"unknown model: {options.model} (there are {', '.join(models)})")
    built = recipes.build_recipe(
        state.settings,
        model=options.model,
        preset=options.preset,
        changes=options.set,
        output=Output(**options.model_dump(include={field.name for field in fields(Output)})),
        pull=False,
    )
    job_id = new_job_id(random_bytes=8)
    if idempotency_key:
        digest = hashlib.sha256(f"{owner}/{idempotency_key}".encode()).hexdigest()
        job_id = JobId(f"once-{digest[:32]}")
    return Job(
        job_id,
        source,
        state.uploads.results_location(owner, job_id),
        built.recipe,
        created=time.time(),
        owner=owner,
        on_finish=options.on_finish,
        outputs=recipes.build_outputs(state.settings, options.outputs, built.recipe),
        review_below=options.review_below,
    )


def submit(state: AppState, job: Job, *, list_now: bool = True) -> None:
    """Open `job`, list its source, and publish until the queue is full; a dispatcher does the rest.

    Without `list_now` the maintenance loop of a server lists it.

    Raises:
        UsageError: a job of this id exists.
        JobConflict: another job with the same source and target is open.
        NoImages: its source is empty.
    """
    register_job(state, job)
    lease = open_job(state.session, job)
    try:
        if list_now:
            list_and_start(state.session, job.id, lease)
            JobController(state.feeder, lease, job.id).step(state.feeder.capacity())
    finally:
        lease.release()


def register_job(state: AppState, job: Job) -> None:
    """Add a job to the lists of its owner and of the maintenance loops, before it is opened.

    Raises Problem 429 if the owner has too many open jobs.
    """
    lists = [keys.of_open_jobs(job.owner), keys.of_owner(job.owner), keys.SERVED]
    values = job.id, f"{job.owner}/{job.id}", job.created, state.settings.serve.open_jobs
    _check_open_jobs(run_script(state.session.client, "register", lists, *values))
    touch_folder(state, f"{job.owner}/results/{job.id}")


def _check_open_jobs(excess: int) -> None:
    if excess:
        detail = f"too many open jobs: {excess}: wait until one ends"
        raise Problem(429, "too-many-jobs", detail, RETRY_AFTER)


def touch_folder(state: AppState, folder: str) -> None:
    """Record that a folder below the uploads' root is in use; it expires `serve.keep_days` later."""
    state.session.client.zadd(keys.FOLDERS, {folder: time.time()})


def check_queue_capacity(state: AppState) -> None:
    """Refuse new work while the queue is full: raises Problem 429 with Retry-After."""
    depth = state.feeder.depth()
    if depth >= state.settings.serve.queue_mark:
        detail = f"queue full: {depth} images: retry after {RETRY_AFTER} s"
        raise Problem(429, "queue-full", detail, RETRY_AFTER)


def check_new_job(state: AppState, owner: str, on_finish: str = "") -> None:
    """Refuse a job before its images are stored: Problem 429 with Retry-After, or 403 for its URL."""
    check_queue_capacity(state)
    count, serve = int(state.session.client.scard(keys.of_open_jobs(owner))), state.settings.serve
    _check_open_jobs(count if count >= serve.open_jobs else 0)
    # The server must not be a way into its network, so the URL is read as by the client that posts.
    with suppress(httpx2.InvalidURL):
        url = httpx2.URL(on_finish)
        hosts = {url.host, url.raw_host.decode("ascii")}
        patterns = [pattern.lower() for pattern in serve.webhook_hosts]
        is_allowed = any(fnmatchcase(host, pattern) for host in hosts for pattern in patterns)
        if url.scheme in {"http", "https"} and is_allowed:
            return
    if on_finish:
        raise Problem(403, "webhook-not-allowed", "not a host in webhook_hosts of [serve]")


def check_source(state: AppState, source: str) -> str:
    """Return the location of a source; raises Problem 403 if not allowed, NoImages if empty."""
    location = source.rstrip("/")
    is_absolute = Path(location).is_absolute()
    if "://" in location:
        is_absolute = is_safe_key(location.removeprefix(S3))
    roots = state.settings.serve.sources
    if not is_absolute or not any(contains(root, location) for root in roots):
        raise Problem(403, "source-not-allowed", "not below a location in sources of [serve]")
    if next(state.session.stores.open(location).list(missing_ok=True), None) is None:
        raise NoImages(f"no images: {source}")
    return location
