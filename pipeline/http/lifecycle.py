"""Jobs of the service, from request to removal: checks, submission, maintenance."""

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, fields
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import cast

import httpx2

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.errors import BgpipeError, NoImages, RedisUnavailable, UsageError
from bgpipe.pipeline.http.dependencies import AppState
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.http.schemas import CutoutOptions, job_body
from bgpipe.pipeline.jobs.scripts import run_script
from bgpipe.pipeline.jobs.store import JobNotFound, new_job_id
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.planning import recipe as recipes
from bgpipe.pipeline.processes import start_daemon
from bgpipe.pipeline.scheduling.dispatcher import CLEANING_INTERVAL, JobController
from bgpipe.pipeline.scheduling.submission import list_and_start, open_job
from bgpipe.pipeline.scheduling.webhook import post_webhook
from bgpipe.pipeline.storage.base import S3, contains, is_safe_key
from bgpipe.pipeline.types import DAY_SECONDS, Job, JobId, JobState, Output

RETRY_AFTER = 10
"""Seconds after which a full queue may have room."""
CONCURRENCY = 8
"""Listings and webhooks that one server runs at once."""
GRACE = 5.0
"""Seconds that these may take at shutdown."""
OPENING_SECONDS = 60.0
"""Maximum time between a job's registration and its opening."""

log = EventLogger(__name__)


def make_job(
    state: AppState, owner: str, source: str, options: CutoutOptions, idempotency_key: str = ""
) -> Job:
    """Return the job of a request, with the same id for the same idempotency key.

    Other ids sort by time; none can be guessed. UsageError if a name or a value is wrong;
    ModelUnavailable if the weights are not on this machine: a request pulls nothing.
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

    Without `list_now` the maintenance loop of a server lists it. Raises as `open_job`, NoImages if its
    source is empty, and Problem 429 if the owner has too many open jobs.
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
    """Add a job to those of its owner and of maintenance, before it is opened.

    Its folders count as in use from now on. Problem 429 if the owner has too many open jobs.
    """
    lists = [keys.of_open_jobs(job.owner), keys.of_owner(job.owner), keys.SERVED]
    values = job.id, f"{job.owner}/{job.id}", job.created, state.settings.serve.open_jobs
    _check_open_jobs(run_script(state.session.client, "register", lists, *values))
    state.uploads.touch(state.uploads.results_location(job.owner, job.id))
    if state.uploads.id_at(job.source):
        state.uploads.touch(job.source)


def _check_open_jobs(excess: int) -> None:
    if excess:
        detail = f"too many open jobs: {excess}: wait until one ends"
        raise Problem(429, "too-many-jobs", detail, RETRY_AFTER)


def remove_folder(state: AppState, location: str) -> None:
    """Remove a folder of uploads, or one of results with its job; UsageError if that is open."""
    folder = location.removeprefix(f"{state.uploads.root}/")
    owner, kind, name = folder.split("/")
    client = state.session.client
    if kind == "results":
        with suppress(JobNotFound):
            state.jobs.forget(JobId(name))
        client.zrem(keys.of_owner(owner), name)
    state.session.stores.open(location).clear()
    client.zrem(keys.FOLDERS, folder)


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


class MaintenanceLoop:
    """Lists sources, posts webhooks of closed jobs, and removes expired uploads and results."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._client = state.session.client
        self._lease = state.session.lease(keys.MAINTENANCE)
        self._tasks: dict[str, threading.Thread] = {}
        self._cleaned = -CLEANING_INTERVAL

    def run(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._state.settings.dispatch.poll):
            try:
                self.step()
            except BgpipeError as error:
                log.warning("maintenance failed", error=error)
        self.join_tasks(GRACE)
        with suppress(RedisUnavailable):  # the lease expires by itself
            self._lease.release()

    def join_tasks(self, seconds: float) -> None:
        """Wait for running tasks; the next leader repeats those that take longer."""
        deadline = time.monotonic() + seconds
        for thread in list(self._tasks.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def step(self) -> None:
        """Start what is due, if this server leads."""
        if not self._lease.acquire():
            return
        served = run_script(self._client, "served", [keys.SERVED], keys.JOB_PREFIX)
        for member, state, created in served:
            owner, _, name = member.decode().rpartition("/")
            if state.decode() == JobState.LISTING:
                if not is_held(self._client, keys.lease_of_job(JobId(name))):
                    self._start(name, partial(self._list, JobId(name)))
            elif state or time.time() - float(created) > OPENING_SECONDS:
                self._start(name, partial(self._conclude, owner, JobId(name)))
        if time.monotonic() - self._cleaned >= CLEANING_INTERVAL:
            self._cleaned = time.monotonic()
            oldest = time.time() - self._state.settings.serve.keep_days * DAY_SECONDS
            folders = self._client.zrangebyscore(keys.FOLDERS, "-inf", oldest)
            for folder in cast("list[bytes]", folders):
                self._remove(folder.decode())
            self._start("usage", self._state.uploads.recount)

    def _start(self, job: str, task: Callable[[], None]) -> None:
        """Run `task` in a thread, unless it runs already or too many do."""
        if job not in self._tasks and len(self._tasks) < CONCURRENCY:
            self._tasks[job], result = start_daemon(f"maintenance {job}", task)
            result.add_done_callback(partial(self._end, job))

    def _end(self, job: str, result: Future[None]) -> None:
        del self._tasks[job]
        if error := result.exception():
            trace = None if isinstance(error, BgpipeError) else error
            log.warning("maintenance failed", exc_info=trace, job=job, error=error)

    def _list(self, job_id: JobId) -> None:
        """List an open job, unless another process does."""
        lease = self._state.session.job_lease(job_id)
        if lease.acquire():
            with lease.renewing():
                list_and_start(self._state.session, job_id, lease)

    def _conclude(self, owner: str, job_id: JobId) -> None:
        """Post the job's webhook, and take it off the lists of open jobs."""
        with suppress(JobNotFound):
            job = self._state.jobs.job(job_id)
            if job.on_finish:
                message = asdict(job_body(self._state, job))
                secret = self._state.settings.serve.webhook_secret.get_secret_value()
                if error := post_webhook(job.on_finish, message, secret, delivery=job_id):
                    log.warning("webhook failed", job=job_id, url=job.on_finish, error=error)
        self._client.srem(keys.of_open_jobs(owner), job_id)
        self._client.zrem(keys.SERVED, f"{owner}/{job_id}")

    def _remove(self, folder: str) -> None:
        try:
            remove_folder(self._state, f"{self._state.uploads.root}/{folder}")
        except BgpipeError as error:  # the job is open, or the store unavailable: retried later
            log.warning("cannot remove", folder=folder, error=error)
        else:
            log.info("removed", folder=folder)
