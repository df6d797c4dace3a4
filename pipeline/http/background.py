"""The embedded dispatcher and worker, and the maintenance of jobs, which one server leads at a time."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.errors import BgpipeError, RedisUnavailable, Unavailable
from bgpipe.pipeline.http.schemas import job_body
from bgpipe.pipeline.jobs.scripts import run_script
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.processes import background_thread
from bgpipe.pipeline.scheduling.dispatcher import CLEANING_INTERVAL, Dispatcher
from bgpipe.pipeline.scheduling.submission import list_and_start
from bgpipe.pipeline.scheduling.webhook import post_webhook
from bgpipe.pipeline.types import DAY_SECONDS, JobId, JobState

if TYPE_CHECKING:
    from bgpipe.pipeline.http.dependencies import AppState

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
    session = state.session

    def dispatch(stopped: threading.Event) -> None:
        try:
            Dispatcher(session, state.feeder).run(stopped, child.check)
        except Unavailable as error:
            log.critical("cannot work", extra={"fields": {"error": error}})
            # Without a worker the server would accept jobs that never end.
            os.kill(os.getpid(), signal.SIGTERM)

    with session.worker() as child, background_thread("dispatch", dispatch):
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
        if job in self._tasks or len(self._tasks) >= CONCURRENCY:
            return

        def run() -> None:
            try:
                task()
            except BgpipeError as error:
                fields = {"job": job, "error": error}
                log.warning("maintenance failed", extra={"fields": fields})
            finally:
                del self._tasks[job]

        thread = threading.Thread(target=run, name=f"maintenance {job}", daemon=True)
        self._tasks[job] = thread
        thread.start()

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
                    fields = {"job": job_id, "url": job.on_finish, "error": error}
                    log.warning("webhook failed", extra={"fields": fields})
        self._client.srem(keys.of_open_jobs(owner), job_id)
        self._client.zrem(keys.SERVED, f"{owner}/{job_id}")

    def _remove(self, folder: str) -> None:
        """Remove a folder of uploads, or one of results together with its job."""
        owner, kind, name = folder.split("/")
        try:
            if kind == "results":
                with suppress(JobNotFound):
                    self._state.jobs.forget(JobId(name))
                self._client.zrem(keys.of_owner(owner), name)
            self._state.session.stores.open(f"{self._state.uploads.root}/{folder}").clear()
        except BgpipeError as error:  # the job is open, or the store unavailable: retried later
            log.warning("cannot remove", extra={"fields": {"folder": folder, "error": error}})
            return
        self._client.zrem(keys.FOLDERS, folder)
        log.info("removed", extra={"fields": {"folder": folder}})
