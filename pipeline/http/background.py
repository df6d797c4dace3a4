"""The embedded dispatcher and worker, and the maintenance of jobs, which one server leads at a time."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.embedded import worker
from bgpipe.pipeline.errors import BgpipeError, RedisUnavailable, Unavailable
from bgpipe.pipeline.http.dependencies import AppState
from bgpipe.pipeline.http.schemas import job_body
from bgpipe.pipeline.http.submission import remove_folder
from bgpipe.pipeline.jobs.scripts import run_script
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.processes import background_thread, start_daemon
from bgpipe.pipeline.scheduling.dispatcher import CLEANING_INTERVAL
from bgpipe.pipeline.scheduling.webhook import post_webhook
from bgpipe.pipeline.types import DAY_SECONDS, JobId, JobState

CONCURRENCY = 8
"""Listings and webhooks that one server runs at once."""
GRACE = 5.0
"""Seconds that these may take at shutdown."""
OPENING_SECONDS = 60.0
"""Maximum time between a job's registration and its opening."""

log = logging.getLogger(__name__)


@contextmanager
def embedded_worker(state: AppState) -> Iterator[None]:
    """Run a dispatcher thread and a worker process until the block ends."""
    session, settings = state.session, state.settings

    def dispatch(stopped: threading.Event) -> None:
        try:
            session.dispatcher().run(stopped, child.check)
        except Unavailable as error:
            log.critical("cannot work", extra={"fields": {"error": error}})
            # Without a worker the server would accept jobs that never end.
            os.kill(os.getpid(), signal.SIGTERM)

    drain = settings.worker.drain_timeout
    with (
        worker(session.redis_url, settings.state_folder, drain) as child,
        background_thread("dispatch", dispatch),
    ):
        yield


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
                log.warning("maintenance failed", extra={"fields": {"error": error}})
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
                if not self._state.session.is_held(keys.lease_of_job(JobId(name))):
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
            fields = {"job": job, "error": error}
            log.warning("maintenance failed", exc_info=trace, extra={"fields": fields})

    def _list(self, job_id: JobId) -> None:
        """List an open job, unless another process does."""
        submitter = self._state.session.submitter
        lease = submitter.lease(job_id)
        if lease.acquire():
            with lease.renewing():
                submitter.list_and_start(job_id, lease)

    def _conclude(self, owner: str, job_id: JobId) -> None:
        """Post the job's webhook, and take it off the lists of open jobs."""
        with suppress(JobNotFound):
            job = self._state.jobs.job(job_id)
            if job.on_finish:
                message = asdict(job_body(self._state, job))
                secret = self._state.settings.serve.webhook_secret.get_secret_value()
                if error := post_webhook(job.on_finish, message, secret, delivery=job_id):
                    fields = {"job": job_id, "url": job.on_finish, "error": error}
                    log.warning("webhook failed", extra={"fields": fields})
        self._client.srem(keys.of_open_jobs(owner), job_id)
        self._client.zrem(keys.SERVED, f"{owner}/{job_id}")

    def _remove(self, folder: str) -> None:
        try:
            remove_folder(self._state, folder)
        except BgpipeError as error:  # the job is open, or the store unavailable: retried later
            log.warning("cannot remove", extra={"fields": {"folder": folder, "error": error}})
        else:
            log.info("removed", extra={"fields": {"folder": folder}})
