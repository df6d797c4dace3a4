"""Who does the work where there is no cluster: a dispatcher in a thread and a worker of our own.

What is to be done for jobs asked for over HTTP while nobody asks.

Sources are listed, the ends of jobs are told to whom they concern, and what was kept for long enough
is removed. Every server has an attendant, and a lease says which of them leads; what it was about
when it died is in Redis, and the next one takes it up.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.embedded import worker
from bgpipe.pipeline.errors import BgpipeError, RedisUnavailable, Unavailable
from bgpipe.pipeline.http.schemas import body_of
from bgpipe.pipeline.http.submission import finish_listing
from bgpipe.pipeline.jobs.scripts import load_script
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.scheduling.webhook import post_webhook
from bgpipe.pipeline.types import JobId, JobState

if TYPE_CHECKING:
    from bgpipe.pipeline.http.dependencies import AppState
    from bgpipe.pipeline.processes import ChildProcess
    from bgpipe.pipeline.session import Session

log = logging.getLogger(__name__)


@contextmanager
def embedded_worker(backend: AppState) -> Iterator[None]:
    """Feed and work on all jobs of the embedded server until the block ends."""
    session, settings = backend.session, backend.settings
    stopped = threading.Event()
    with worker(session.redis_url, settings.state_folder, settings.worker.drain_timeout) as child:
        thread = threading.Thread(target=_dispatch, args=(session, child, stopped), name="dispatch")
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


def _dispatch(session: Session, child: ChildProcess, stopped: threading.Event) -> None:
    dispatcher = session.dispatcher()
    while not stopped.is_set():
        try:
            more = dispatcher.step()
            child.check()
        except RedisUnavailable as error:
            log.warning("waiting for redis", extra={"fields": {"error": error}})
            more = False
        except Unavailable as error:
            log.critical("cannot work", extra={"fields": {"error": error}})
            # A server that takes jobs which nobody does is worse than none.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if not more:
            stopped.wait(session.settings.dispatch.poll)
    with suppress(RedisUnavailable):  # the lease ends by itself
        dispatcher.release()


AT_ONCE = 8
"""Listings and messages under way in one server."""
GRACE = 5.0
"""Seconds that those may take once the server is told to leave."""
YOUNG = 60.0
"""Seconds that may lie between a job's entry in the list of those served and its opening."""
CLEANING = 600.0
"""Seconds between two looks for what was kept for long enough."""
DAY = 86_400.0


@contextmanager
def maintenance(backend: AppState) -> Iterator[None]:
    """Attend to the jobs from a thread until the block ends."""
    stopped = threading.Event()
    attendant = MaintenanceLoop(backend)
    thread = threading.Thread(target=attendant.run, args=(stopped,), name="attendant", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


class MaintenanceLoop:
    """That of one server."""

    def __init__(self, backend: AppState) -> None:
        self._backend = backend
        self._client = backend.session.client
        self._served = load_script(self._client, "served")
        self._lease = backend.session.lease(keys.MAINTENANCE)
        self._at_work: dict[str, threading.Thread] = {}
        self._cleaned = -CLEANING

    def run(self, stopped: threading.Event) -> None:
        poll = self._backend.settings.dispatch.poll
        while not stopped.wait(poll):
            try:
                self.step()
            except BgpipeError as error:
                log.warning("cannot attend", extra={"fields": {"error": error}})
        self.rest(GRACE)
        with suppress(RedisUnavailable):  # the lease ends by itself
            self._lease.release()

    def rest(self, seconds: float) -> None:
        """Wait for what is under way; what takes longer is begun again by the next who leads."""
        deadline = time.monotonic() + seconds
        for thread in list(self._at_work.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def step(self) -> None:
        """Do once what there is to do, if this server leads."""
        if not self._lease.acquire():
            return
        for member, state, created in self._served(keys=[keys.SERVED], args=[keys.JOB_PREFIX]):
            self._attend(member.decode(), state.decode(), float(created))
        if time.monotonic() - self._cleaned >= CLEANING:
            self._cleaned = time.monotonic()
            self._clean()

    def _attend(self, member: str, state: str, created: float) -> None:
        owner, _, name = member.rpartition("/")
        job = JobId(name)
        if state == JobState.LISTING:
            if not self._backend.session.is_held(keys.lease_of_job(job)):
                self._begin(member, lambda: finish_listing(self._backend, job))
        elif state or time.time() - created > YOUNG:
            self._begin(member, lambda: self._conclude(owner, job))

    def _begin(self, member: str, work: Callable[[], None]) -> None:
        """Do `work` in a thread of its own, unless this is done already or much else is."""
        if member in self._at_work or len(self._at_work) >= AT_ONCE:
            return

        def run() -> None:
            try:
                work()
            except BgpipeError as error:
                log.warning("cannot attend", extra={"fields": {"job": member, "error": error}})
            finally:
                del self._at_work[member]

        thread = threading.Thread(target=run, name=f"attend {member}", daemon=True)
        self._at_work[member] = thread
        thread.start()

    def _conclude(self, owner: str, job: JobId) -> None:
        """Tell of the job's end, and take it off the lists of what is open."""
        with suppress(JobNotFound):
            order = self._backend.jobs.job(job)
            if order.on_finish:
                message = body_of(self._backend, order).model_dump(mode="json")
                secret = self._backend.settings.serve.webhook_secret.get_secret_value()
                trouble = post_webhook(order.on_finish, message, secret, delivery=job)
                if trouble:
                    fields = {"job": job, "url": order.on_finish, "error": trouble}
                    log.warning("not told", extra={"fields": fields})
        self._client.srem(keys.of_open_jobs(owner), job)
        self._client.zrem(keys.SERVED, f"{owner}/{job}")

    def _clean(self) -> None:
        oldest = time.time() - self._backend.settings.serve.keep_days * DAY
        old = cast("list[bytes]", self._client.zrangebyscore(keys.FOLDERS, "-inf", oldest))
        for folder in old:
            self._remove(folder.decode())

    def _remove(self, folder: str) -> None:
        """Remove a folder of uploads or results, and forget the job of these."""
        owner, kind, name = folder.split("/")
        try:
            if kind == "results":
                with suppress(JobNotFound):
                    self._backend.jobs.forget(JobId(name))
                self._client.zrem(keys.of_owner(owner), name)
            self._backend.session.stores.open(f"{self._backend.uploads.root}/{folder}").clear()
        except BgpipeError as error:  # an open job, or a store that is away: the next time
            log.warning("cannot remove", extra={"fields": {"folder": folder, "error": error}})
            return
        self._client.zrem(keys.FOLDERS, folder)
        log.info("removed", extra={"fields": {"folder": folder}})
