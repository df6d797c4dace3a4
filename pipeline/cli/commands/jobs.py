"""Commands on existing jobs: `status`, `jobs`, `errors`, `retry`, `cancel` and `resume`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples, open_session
from bgpipe.pipeline.cli.parameters import OptionalJob, RequiredJob, Wait
from bgpipe.pipeline.errors import StoreCorrupted, UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.lease import Lease
    from bgpipe.pipeline.cli.console import Console
    from bgpipe.pipeline.session import Session
    from bgpipe.pipeline.types import JobId, JobSummary


@examples(
    "bgpipe status",
    "bgpipe status spring-2026 --watch",
    "bgpipe status --flagged",
)
def status(
    context: typer.Context,
    job: OptionalJob = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    flagged: Annotated[
        bool, typer.Option("--flagged", help="Also list the cutouts that need a review.")
    ] = False,
) -> None:
    """Show the progress of a job."""
    from bgpipe.pipeline.cli.summary import show_flags, show_summary

    console: Console = context.obj
    with open_session(console) as session:
        job_id = session.job(job)
        summary = session.jobs.summary(job_id)
        if watch:
            summary = _follow(session, console, summary)
        if flagged:
            show_flags(console, session.jobs, job_id)
        show_summary(console, summary, session.jobs.items.failures(job_id))
        if summary.interrupted:
            console.print(_resume_hint(job_id))


def _follow(session: Session, console: Console, summary: JobSummary) -> JobSummary:
    """Show the progress until the job is closed; returns its last summary."""
    from bgpipe.pipeline.cli.progress import show_progress
    from bgpipe.pipeline.types import CLOSED_STATES

    warned = False
    with show_progress(console) as show:
        while summary.state not in CLOSED_STATES:
            show(summary)
            if summary.interrupted and not warned:
                console.warn(_resume_hint(summary.job))
                warned = True
            console.print_json(asdict(summary))
            time.sleep(session.settings.dispatch.poll)
            summary = session.jobs.summary(summary.job)
    return summary


@examples("bgpipe jobs", "bgpipe jobs --forget spring-2026")
def jobs(
    context: typer.Context,
    forget: Annotated[
        str | None,
        typer.Option(
            metavar="JOB",
            help="Remove a job that has ended from the list. Its cutouts stay.",
            autocompletion=completion.jobs,
        ),
    ] = None,
) -> None:
    """List the jobs, newest first."""
    from bgpipe.pipeline.cli.summary import show_jobs

    console: Console = context.obj
    with open_session(console) as session:
        if forget:
            job_id = session.job(forget)
            session.jobs.forget(job_id)
            console.print_json({"job": job_id, "forgotten": True})
            console.print(f"forgotten: {job_id}: its cutouts are unchanged")
            return
        summaries = _readable_summaries(session, console)
    show_jobs(console, summaries)
    if console.is_verbose:
        for summary, _ in summaries:
            if summary.interrupted:
                console.warn(_resume_hint(summary.job))


@examples("bgpipe errors", "bgpipe --json errors spring-2026 | jq -r .source")
def errors(context: typer.Context, job: OptionalJob = None) -> None:
    """List the failed images of a job with code and reason."""
    console: Console = context.obj
    with open_session(console) as session:
        for failure in session.jobs.items.failures(session.job(job)):
            console.print_json(asdict(failure))
            console.print(
                f"{failure.code}  {failure.source}: {failure.detail} (attempts: {failure.attempts})"
            )


@examples("bgpipe cancel spring-2026")
def cancel(context: typer.Context, job: RequiredJob) -> None:
    """Stop a job. Images in progress are finished, no others are started."""
    console: Console = context.obj
    with open_session(console) as session:
        job_id = session.job(job)
        session.jobs.cancel(job_id)
        console.print_json(asdict(session.jobs.summary(job_id)))
        console.print(f"cancelled: {job_id}: continue with bgpipe resume {job_id}")


@examples("bgpipe resume", "bgpipe resume spring-2026 --detach")
def resume(context: typer.Context, job: OptionalJob = None, wait: Wait = None) -> None:
    """Continue a job that was interrupted or cancelled."""

    def reopen(session: Session, job_id: JobId, lease: Lease) -> None:
        if session.jobs.summary(job_id).state == "cancelled":
            session.jobs.resume(job_id, _acquire(session, lease))

    _continue(context.obj, job, wait, reopen)


@examples("bgpipe retry", "bgpipe retry spring-2026 --detach")
def retry(context: typer.Context, job: OptionalJob = None, wait: Wait = None) -> None:
    """Process the failed images of a finished job again."""

    def reopen(session: Session, job_id: JobId, lease: Lease) -> None:
        if not session.jobs.summary(job_id).failed:
            raise UsageError(f"nothing to retry: no image of job {job_id} has failed")
        session.jobs.retry(job_id, _acquire(session, lease))

    _continue(context.obj, job, wait, reopen)


def _continue(
    console: Console,
    name: str | None,
    wait: bool | None,
    reopen: Callable[[Session, JobId, Lease], None],
) -> None:
    """Reopen a job and run it to its end."""
    from bgpipe.pipeline.cli.run import JobRun, check_wait, run_to_completion

    with open_session(console) as session:
        check_wait(session.settings, wait)
        job_id = session.job(name)
        lease = session.submitter.lease(job_id)
        reopen(session, job_id, lease)
        code = run_to_completion(console, JobRun(session, job_id, lease), wait=wait)
    raise typer.Exit(code)


def _acquire(session: Session, lease: Lease) -> int:
    """Return the lease's token; a command that was killed keeps it for a while."""
    settings = session.settings.dispatch
    return lease.acquire(settings.lease + settings.poll)


def _resume_hint(job_id: JobId) -> str:
    return f"interrupted: continue with bgpipe resume {job_id}"


def _readable_summaries(session: Session, console: Console) -> list[tuple[JobSummary, float]]:
    """Return the summaries with the jobs' Unix time of creation, and report corrupted ones."""
    summaries = []
    for job_id in session.jobs.ids():
        try:
            summaries.append((session.jobs.summary(job_id), session.jobs.job(job_id).created))
        except (StoreCorrupted, UsageError) as error:
            console.print_json({"job": job_id, "error": str(error)})
            console.warn(f"bgpipe: {error}")
    return summaries
