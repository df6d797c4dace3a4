"""What most commands begin with: the settings and a session.

Opening a job, or following the one that does the same already.

Seeing a job through to its end from the command that submitted or resumed it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline import session
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.progress import heading, progress
from bgpipe.pipeline.cli.summary import INTERRUPTED, exit_code, show_result
from bgpipe.pipeline.errors import Unavailable, UsageError
from bgpipe.pipeline.session import Session, read_settings
from bgpipe.pipeline.types import CLOSED_STATES

if TYPE_CHECKING:
    from types import TracebackType

    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.broker.lease import Lease
    from bgpipe.pipeline.cli.console import Console
    from bgpipe.pipeline.planning.ignored import IgnoredObjects
    from bgpipe.pipeline.processes import ChildProcess
    from bgpipe.pipeline.scheduling.dispatcher import JobController
    from bgpipe.pipeline.types import Job, JobId, JobSummary

__all__ = ["Session", "open_session", "read_settings"]


def open_session(
    settings: Settings, terminal: Console | None = None
) -> AbstractContextManager[Session]:
    """Connect to Redis; `terminal` shows that it takes long."""
    return session.open_session(settings, notify=terminal.notify if terminal else None)


def open_job(
    session: Session, terminal: Console, job: Job, named: Sequence[str] = ()
) -> tuple[JobId, Lease]:
    """Open the job, or find the one that does the same already; with the lease of either."""
    from bgpipe.pipeline.broker import keys
    from bgpipe.pipeline.jobs.store import JobConflict

    lease = session.lease(keys.lease_of_job(job.id))
    lease.acquire()  # before others can see the job and miss its leader
    try:
        session.jobs.open(job, named)
    except JobConflict as error:
        if session.is_led(error.job):
            lease.release()
            _check_same(session.jobs.job(error.job), job)
            terminal.warn(f"following job {error.job}, which does this already")
            return error.job, session.lease(keys.lease_of_job(error.job))
        terminal.warn(f"job {error.job} was abandoned: {job.id} replaces it")
        session.jobs.cancel(error.job)
        session.jobs.open(job, named)
    return job.id, lease


def _check_same(other: Job, job: Job) -> None:
    if not job.same_as(other):
        raise UsageError(
            f"job {other.id} is writing cutouts of another kind to {other.out}: "
            f"wait for its end, or bgpipe cancel {other.id}"
        )


SHORTEST_PAUSE = 0.02
"""Seconds between two looks at a young job; an older one is looked at less often."""

Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--detach",
        help="Stay until the job ends, or return once it is queued. Default: stay on a terminal.",
        show_default=False,
    ),
]


def check_wait(settings: Settings, wait: bool | None) -> None:
    if settings.embedded and wait is False:
        raise UsageError("--detach needs a cluster: set BGPIPE_REDIS_URL")


def run_to_completion(
    session: Session,
    terminal: Console,
    job: JobId,
    lease: Lease,
    *,
    wait: bool | None,
    ignored: IgnoredObjects | None = None,
    growing: Container[str] = (),
    worker: ChildProcess | None = None,
) -> int:
    """Stay with `job` to its end, or only see that it is published; returns the exit code.

    `lease` is the job's; it is renewed meanwhile and free at the end. `ignored` has what was left
    out before the job was listed; a listing leaves out the keys in `growing`.
    `worker` is one that outlives the job; without it the embedded mode starts one.

    Raises:
        KeyboardInterrupt: INT or TERM; the worker has drained, and the job can be resumed.
        Unavailable: Redis, a store or the embedded worker is away for good.
    """
    stay = sys.stdout.isatty() if wait is None else wait
    with _resumable(terminal, job), JobRun(session, job, lease, growing, worker) as run:
        if session.settings.embedded or stay:
            summary = _to_the_end(session, terminal, job, run)
            if ignored:
                run.ignored.include(ignored)
            show_result(terminal, session.jobs, summary, run.ignored)
            return exit_code(summary)
        summary = _published(session, terminal, job, run)
        terminal.print_json(asdict(summary))
        terminal.print(job)
    # Not what became of its images: whether a quick worker has ended them by now is chance.
    return INTERRUPTED if summary.state == "cancelled" else 0


class JobRun:
    """What a command does for its job, turn by turn, as far as nobody else does."""

    def __init__(
        self,
        session: Session,
        job: JobId,
        lease: Lease,
        growing: Container[str] = (),
        worker: ChildProcess | None = None,
    ) -> None:
        """`growing`: keys of the source that are not complete yet."""
        from bgpipe.pipeline.planning.ignored import IgnoredObjects

        self._session = session
        self._job = job
        self._lease = lease
        self._stack = ExitStack()
        self._growing = growing
        self._worker = worker
        self._owns_worker = worker is None
        self.ignored = IgnoredObjects()
        """What the job left out, as far as this command listed it."""
        self._start = time.monotonic()

    @cached_property
    def _leader(self) -> JobController:
        return self._session.controller(self._job, self._lease)

    def __enter__(self) -> JobRun:
        self._stack.enter_context(self._lease.renewing())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def prepare(self) -> None:
        """Without a cluster: start the worker early if it is likely needed, and forget old jobs."""
        if not self._session.settings.embedded:
            return
        if self._lease.acquire() and self._is_likely_new():
            self._bring_worker()
        from bgpipe.pipeline.scheduling.dispatcher import forget_old

        forget_old(self._session.jobs, self._session.settings.dispatch.keep_days)

    def _is_likely_new(self) -> bool:
        """Whether named files, or no target yet, promise work; else the listing has to find some."""
        job = self._session.jobs.job(self._job)
        return bool(job.named) or not ("://" in job.out or Path(job.out).exists())

    def step(self, summary: JobSummary) -> None:
        """Do what there is to do by `books`, and wait until there may be more."""
        more = False
        if summary.state == "listing":
            more = self._list()
        elif self._session.is_dispatched():
            self._leader.release()
        else:
            more = self._leader.step(self._session.feeder.capacity())
            self._work()
        if not more:
            self._pause()

    def release(self) -> None:
        """Let the worker end by itself without waiting for it: all images are settled."""
        if self._worker and self._owns_worker:
            self._worker.release()

    def _pause(self) -> None:
        """Wait for the next turn or the end of the job, which a short one should not miss."""
        end = time.monotonic() + self._session.settings.dispatch.poll
        while (now := time.monotonic()) < end:
            time.sleep(min(end - now, max(SHORTEST_PAUSE, (now - self._start) / 50)))
            if self._session.jobs.summary(self._job).state in CLOSED_STATES:
                return

    def _list(self) -> bool:
        """List the job unless another command does; returns whether it is listed now."""
        from bgpipe.pipeline.jobs.store import LeaseLost
        from bgpipe.pipeline.planning.planner import list_job

        token = self._lease.acquire()
        if not token:
            return False
        job_store, stores = self._session.jobs, self._session.stores
        order = job_store.job(self._job)
        try:
            source, target = stores.open(order.source), stores.open(order.out)
            self.ignored = list_job(
                job_store,
                self._session.catalogs,
                order,
                source,
                target,
                token,
                self._growing,
                on_work=self._bring_worker,
            )
        except LeaseLost:
            return False
        return True

    def _work(self) -> None:
        """Without a cluster, the command that leads the job brings its worker."""
        if self._leader.is_leader:
            self._bring_worker()
        if self._worker:
            self._worker.check()

    def _bring_worker(self) -> None:
        from bgpipe.pipeline.broker.embedded import worker

        settings = self._session.settings
        if settings.embedded and self._worker is None:
            self._worker = self._stack.enter_context(
                worker(
                    self._session.redis_url, settings.state_folder, settings.worker.drain_timeout
                )
            )


def _to_the_end(session: Session, terminal: Console, job: JobId, run: JobRun) -> JobSummary:
    run.prepare()
    with progress(terminal, heading(session, job)) as watch:
        while (summary := session.jobs.summary(job)).state not in CLOSED_STATES:
            watch(summary)
            run.step(summary)
        watch(summary)
    if summary.state == "finished":
        run.release()
    return summary


def _published(session: Session, terminal: Console, job: JobId, run: JobRun) -> JobSummary:
    """List the job, and publish all of it unless a dispatcher does."""
    while (summary := session.jobs.summary(job)).state == "listing":
        run.step(summary)
    if not session.is_dispatched():
        terminal.warn(
            "no dispatcher runs: publishing the job from here; what Redis may lose is sent again by "
            f"bgpipe dispatch, or by bgpipe resume {job}"
        )
        while summary.state == "running" and session.jobs.cursor(job) < session.jobs.items.size(
            job
        ):
            run.step(summary)
            summary = session.jobs.summary(job)
    return summary


@contextmanager
def _resumable(terminal: Console, job: JobId) -> Iterator[None]:
    """Say how to go on with a job that this command does not see to its end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        terminal.warn(f"interrupted: go on with bgpipe resume {job}, or submit again")
        raise
    except Unavailable:
        terminal.warn(f"job {job} is kept: after a fix, bgpipe resume {job} continues")
        raise
