"""Running a job to its end from the command that submitted or resumed it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bgpipe.pipeline.broker.embedded import worker as embedded_worker
from bgpipe.pipeline.cli.progress import show_progress, title_of
from bgpipe.pipeline.cli.summary import INTERRUPTED, exit_code, show_result
from bgpipe.pipeline.errors import Unavailable, UsageError
from bgpipe.pipeline.planning.ignored import IgnoredObjects
from bgpipe.pipeline.scheduling.dispatcher import forget_old
from bgpipe.pipeline.types import CLOSED_STATES, JobState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.broker.lease import Lease
    from bgpipe.pipeline.cli.console import Console
    from bgpipe.pipeline.processes import ChildProcess
    from bgpipe.pipeline.scheduling.dispatcher import JobController
    from bgpipe.pipeline.session import Session
    from bgpipe.pipeline.types import Job, JobId, JobSummary

SHORTEST_PAUSE = 0.02
"""Seconds between two polls of a young job; the pauses grow with its age."""


def check_wait(settings: Settings, wait: bool | None) -> None:
    """Raise UsageError if a job of the embedded server is to be detached."""
    if settings.embedded and wait is False:
        raise UsageError("--detach needs a cluster: set BGPIPE_REDIS_URL")


def open_job(
    session: Session, console: Console, job: Job, named: Sequence[str] = ()
) -> tuple[JobId, Lease]:
    """Open the job or join the one that does the same, and warn if it is not simply opened."""
    opened = session.submitter.open_or_join(job, named)
    if opened.replaced:
        console.warn(f"job {opened.replaced} was abandoned: replaced by {opened.id}")
    if opened.id != job.id:
        console.warn(f"following job {opened.id}: it has the same source and target")
    return opened.id, opened.lease


def run_to_completion(
    session: Session,
    console: Console,
    job_id: JobId,
    lease: Lease,
    *,
    wait: bool | None,
    ignored: IgnoredObjects | None = None,
    growing: Container[str] = (),
    worker: ChildProcess | None = None,
) -> int:
    """Wait for the end of the job, or only for its publication; returns the exit code.

    `lease` is the job's; it is renewed meanwhile and released at the end. `ignored` has the objects
    ignored before the listing, which leaves out the keys in `growing`. `worker` outlives the job;
    without it the embedded mode starts one.

    Raises:
        KeyboardInterrupt: INT or TERM; the worker has drained, and the job can be resumed.
        Unavailable: Redis, a store or the embedded worker is lost.

    """
    waits = sys.stdout.isatty() if wait is None else wait
    with _resumable(console, job_id), JobRun(session, job_id, lease, growing, worker) as run:
        if session.settings.embedded or waits:
            summary = _wait(session, console, job_id, run)
            if ignored:
                run.ignored.include(ignored)
            show_result(console, session.jobs, summary, run.ignored)
            return exit_code(summary)
        summary = _publish(session, console, job_id, run)
        console.print_json(asdict(summary))
        console.print(job_id)
    # Failures do not count: it depends on the workers' speed whether any has been recorded yet.
    return INTERRUPTED if summary.state is JobState.CANCELLED else 0


class JobRun:
    """One command's share of a job: listing, publishing and a worker, unless a cluster does it."""

    def __init__(
        self,
        session: Session,
        job_id: JobId,
        lease: Lease,
        growing: Container[str] = (),
        worker: ChildProcess | None = None,
    ) -> None:
        """`growing`: keys of the source that are not complete yet."""
        self._session = session
        self._job_id = job_id
        self._lease = lease
        self._stack = ExitStack()
        self._growing = growing
        self._worker = worker
        self._owns_worker = worker is None
        self.ignored = IgnoredObjects()
        """Objects that the job leaves out, if this command listed it."""
        self._start = time.monotonic()

    @cached_property
    def _controller(self) -> JobController:
        return self._session.controller(self._job_id, self._lease)

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
        """Without a cluster, start the worker early if it is likely needed, and forget old jobs."""
        if not self._session.settings.embedded:
            return
        if self._lease.acquire() and self._is_likely_new():
            self._start_worker()
        forget_old(self._session.jobs, self._session.settings.dispatch.keep_days)

    def _is_likely_new(self) -> bool:
        """Return whether the keys are named or there is no target yet, which promises work."""
        job = self._session.jobs.job(self._job_id)
        return bool(job.named) or not ("://" in job.out or Path(job.out).exists())

    def step(self, summary: JobSummary) -> None:
        """Advance the job, then pause unless it can be advanced further at once."""
        if summary.state is JobState.LISTING:
            more = self._list()
        elif self._session.is_dispatched():
            self._controller.release()
            more = False
        else:
            more = self._controller.step(self._session.feeder.capacity())
            self._keep_worker()
        if not more:
            self._pause()

    def release(self) -> None:
        """Let the worker exit by itself without waiting for it: all images are settled."""
        if self._worker and self._owns_worker:
            self._worker.release()

    def _pause(self) -> None:
        """Wait for the next step, or until the job is closed."""
        end = time.monotonic() + self._session.settings.dispatch.poll
        while (now := time.monotonic()) < end:
            time.sleep(min(end - now, max(SHORTEST_PAUSE, (now - self._start) / 50)))
            if self._session.jobs.summary(self._job_id).state in CLOSED_STATES:
                return

    def _list(self) -> bool:
        """List the job unless another command does; returns whether it is listed now."""
        ignored = self._session.submitter.list_and_start(
            self._job_id, self._lease, self._growing, self._start_worker
        )
        self.ignored = ignored or self.ignored
        return ignored is not None

    def _keep_worker(self) -> None:
        """Start the embedded worker of a job that this command leads, and check that it lives."""
        if self._controller.is_leader:
            self._start_worker()
        if self._worker:
            self._worker.check()

    def _start_worker(self) -> None:
        session, settings = self._session, self._session.settings
        if settings.embedded and self._worker is None:
            self._worker = self._stack.enter_context(
                embedded_worker(
                    session.redis_url, settings.state_folder, settings.worker.drain_timeout
                )
            )


def _wait(session: Session, console: Console, job_id: JobId, run: JobRun) -> JobSummary:
    run.prepare()
    with show_progress(console, title_of(session, job_id)) as show:
        while (summary := session.jobs.summary(job_id)).state not in CLOSED_STATES:
            show(summary)
            run.step(summary)
        show(summary)
    if summary.state is JobState.FINISHED:
        run.release()
    return summary


def _publish(session: Session, console: Console, job_id: JobId, run: JobRun) -> JobSummary:
    """List the job, and publish all of it unless a dispatcher does."""
    jobs = session.jobs
    while (summary := jobs.summary(job_id)).state is JobState.LISTING:
        run.step(summary)
    if session.is_dispatched():
        return summary
    console.warn(
        "no dispatcher runs: publishing the job from here; messages that Redis loses are published "
        f"again by bgpipe dispatch, or by bgpipe resume {job_id}"
    )
    while summary.state is JobState.RUNNING and jobs.cursor(job_id) < jobs.items.size(job_id):
        run.step(summary)
        summary = jobs.summary(job_id)
    return summary


@contextmanager
def _resumable(console: Console, job_id: JobId) -> Iterator[None]:
    """Print how to continue a job whose command ends before it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        console.warn(f"interrupted: continue with bgpipe resume {job_id}, or submit again")
        raise
    except Unavailable:
        console.warn(f"job {job_id} is kept: after a fix, bgpipe resume {job_id} continues")
        raise
