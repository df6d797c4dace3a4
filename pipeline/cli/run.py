"""Running a job to its end from the command that submitted or resumed it."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.cli.console import Console, counted, short_location
from bgpipe.pipeline.cli.summary import format_outputs, format_rate, show_failures, show_progress
from bgpipe.pipeline.errors import RedisUnavailable, Unavailable, UsageError
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats
from bgpipe.pipeline.planning.planner import IgnoredObjects
from bgpipe.pipeline.planning.prune import Prune
from bgpipe.pipeline.planning.targets import literal_key
from bgpipe.pipeline.processes import ChildProcess
from bgpipe.pipeline.report.contact_sheet import format_duration
from bgpipe.pipeline.scheduling.dispatcher import JobController, forget_old, make_feeder
from bgpipe.pipeline.scheduling.submission import list_and_start, open_or_join
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import CLOSED_STATES, Job, JobId, JobState, JobSummary

INTERRUPTED = 130
SHORTEST_PAUSE = 0.02
"""Seconds between two polls of a young job; the pauses grow with its age."""


def check_wait(settings: Settings, wait: bool | None) -> None:
    """Raise UsageError for `--detach` with the embedded server."""
    if settings.embedded and wait is False:
        raise UsageError("--detach needs a cluster: set BGPIPE_REDIS_URL")


def open_job(
    session: Session, console: Console, job: Job, named: Sequence[str] = ()
) -> tuple[JobId, Lease]:
    """Open the job, or join the one that does the same; warn if it joins one or replaces one."""
    opened = open_or_join(session, job, named)
    if opened.replaced:
        console.warn(f"job {opened.replaced} was abandoned: replaced by {opened.id}")
    if opened.id != job.id:
        console.warn(f"following job {opened.id}: it has the same source and target")
    return opened.id, opened.lease


def run_to_completion(console: Console, run: JobRun, *, wait: bool | None) -> int:
    """Wait for the end of the job, or only for its publication; returns the exit code.

    The lease is renewed meanwhile and released at the end. Raises KeyboardInterrupt at INT or TERM: the
    worker has drained, and the job can be resumed; Unavailable if Redis, a store or the worker is lost.
    """
    waits = run.session.settings.embedded or (sys.stdout.isatty() if wait is None else wait)
    with _resumable(console, run.job_id), run.stack:
        run.stack.enter_context(run.lease.renewing())
        if waits:
            summary = _wait(console, run)
            _show_result(console, run, summary)
        else:
            summary = _publish(console, run)
            console.show(asdict(summary), run.job_id)
    if summary.state is JobState.CANCELLED:
        return INTERRUPTED
    # Without a wait it depends on the workers' speed whether a failure has been recorded yet.
    return int(waits and summary.failed > 0)


@dataclass
class JobRun:
    """One command's share of a job: listing, publishing and a worker, unless a cluster does it."""

    session: Session
    job_id: JobId
    lease: Lease
    growing: Container[str] = ()
    """Keys of the source that are not complete yet and left for a later job."""
    prune: Prune | None = None
    worker: ChildProcess | None = None
    """A worker that outlives the job. Without one, embedded mode starts `own_worker`."""
    ignored: IgnoredObjects = field(default_factory=IgnoredObjects)
    """Objects that the job leaves out: those before the listing, then those that it finds."""
    stack: ExitStack = field(default_factory=ExitStack)
    start: float = field(default_factory=time.monotonic)
    own_worker: ChildProcess | None = field(default=None, init=False)

    @cached_property
    def _controller(self) -> JobController:
        return JobController(make_feeder(self.session), self.lease, self.job_id)

    @property
    def summary(self) -> JobSummary:
        return self.session.jobs.summary(self.job_id)

    def prepare(self) -> None:
        """Without a cluster, start the worker early if it is likely needed, and forget old jobs."""
        if not self.session.settings.embedded:
            return
        job = self.session.jobs.job(self.job_id)
        has_target = "://" in job.out or Path(job.out).exists()
        if self.lease.acquire() and (job.named or not has_target):
            self._start_worker()
        forget_old(self.session)

    def step(self, summary: JobSummary) -> None:
        """Advance the job, then pause unless it can be advanced further at once."""
        if summary.state is JobState.LISTING:
            ignored = list_and_start(
                self.session, self.job_id, self.lease, self.growing, self._start_worker, self.prune
            )
            more = ignored is not None
            if ignored:
                self.ignored.include(ignored)
        elif self.session.is_dispatched():
            self._controller.release()
            more = False
        else:
            more = self._controller.step(self._controller.feeder.capacity())
            if self._controller.is_leader:
                self._start_worker()
            if self.worker:
                self.worker.check()
        if not more:
            self._pause()

    def _pause(self) -> None:
        """Wait for the next step, or until the job is closed."""
        end = time.monotonic() + self.session.settings.dispatch.poll
        while (now := time.monotonic()) < end:
            time.sleep(min(end - now, max(SHORTEST_PAUSE, (now - self.start) / 50)))
            if self.summary.state in CLOSED_STATES:
                return

    def _start_worker(self) -> None:
        if self.session.settings.embedded and self.worker is None:
            self.worker = self.own_worker = self.stack.enter_context(self.session.worker())


def _wait(console: Console, run: JobRun) -> JobSummary:
    run.prepare()
    with show_progress(console, _title_of(run.session, run.job_id)) as show:
        while (summary := run.summary).state not in CLOSED_STATES:
            show(summary)
            run.step(summary)
        show(summary)
    if summary.state is JobState.FINISHED and run.own_worker:
        run.own_worker.release()  # all images are settled: it exits by itself
    return summary


def _title_of(session: Session, job_id: JobId) -> Callable[[], str]:
    """Return a function that makes `~/photos → ~/photos-cutouts   balanced · birefnet-lite · gpu0`.

    The devices come from the workers' heartbeats, which take a moment to arrive.
    """
    job, presets = session.jobs.job(job_id), session.settings.presets.items()
    names = (name for name, preset in presets if preset == job.recipe.preset)
    locations = f"{short_location(job.source)} → {short_location(job.out)}"
    look = f"{next(names, 'own values')} · {job.recipe.model}"

    def make_title() -> str:
        devices = sorted({heartbeat.label for heartbeat in read_heartbeats(session.client)})
        return f"{locations}   {look} · {', '.join(devices) or '...'}"

    return make_title


def _show_result(console: Console, run: JobRun, summary: JobSummary) -> None:
    """Print how a job ended: where the cutouts are, what failed, what was ignored."""
    jobs, ignored = run.session.jobs, run.ignored
    argument = "" if jobs.latest() == summary.job else f" {summary.job}"
    lines = _result(summary, jobs.job(summary.job), argument)
    console.show(asdict(summary) | ignored.record(), *lines)
    if summary.failed:
        show_failures(console, jobs.items.failures(summary.job))
        console.print(f"after a fix: bgpipe retry{argument}")
    if text := str(ignored):
        console.print(text)


def _result(summary: JobSummary, job: Job, argument: str) -> Iterator[str]:
    """Yield the lines on a job that has ended; `argument` names it unless it is the latest."""
    key, folder = literal_key(job.naming), short_location(job.out)
    place = f": {folder.rstrip('/')}/{key}" if key else f" in {folder}"
    noun = "image" if job.outputs else "cutout"
    if summary.state is JobState.CANCELLED:
        yield f"cancelled: continue with bgpipe resume {summary.job}"
    if summary.done:
        pace = f"{format_duration(summary.seconds)}, {format_rate(summary.images_per_second)}"
        yield f"{counted(summary.done, noun)}{place} ({pace})"
    if summary.skipped:
        yield f"{counted(summary.skipped, noun)} up to date{'' if summary.done else place}"
    yield from format_outputs(summary)
    if summary.flagged:
        yield f"{summary.flagged:,} to review: bgpipe report{argument} --open"
    if summary.failed:
        yield f"{summary.failed:,} failed: bgpipe errors{argument}"


def _publish(console: Console, run: JobRun) -> JobSummary:
    """List the job, and publish all of it unless a dispatcher does."""
    jobs, job_id = run.session.jobs, run.job_id
    while (summary := run.summary).state is JobState.LISTING:
        run.step(summary)
    if run.session.is_dispatched():
        return summary
    console.warn(
        "no dispatcher runs: publishing the job from here; messages that Redis loses are published "
        f"again by bgpipe dispatch, or by bgpipe resume {job_id}"
    )
    while summary.state is JobState.RUNNING and jobs.cursor(job_id) < jobs.items.size(job_id):
        run.step(summary)
        summary = run.summary
    return summary


@contextmanager
def _resumable(console: Console, job_id: JobId) -> Iterator[None]:
    """Print how to continue a job whose command ends before it; RedisUnavailable if Redis lost it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        console.warn(f"interrupted: continue with bgpipe resume {job_id}, or submit again")
        raise
    except JobNotFound as error:
        raise RedisUnavailable(
            f"redis has lost job {job_id}: it was emptied, or came back without its data: submit again, "
            "which keeps the finished cutouts"
        ) from error
    except Unavailable:
        console.warn(f"job {job_id} is kept: after a fix, bgpipe resume {job_id} continues")
        raise
