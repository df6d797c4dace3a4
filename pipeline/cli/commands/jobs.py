"""Commands on jobs that are in the ledger: look at them, end them, take them up again."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.parameters import JobName, ThatJob
from bgpipe.pipeline.cli.progress import progress
from bgpipe.pipeline.cli.run import Wait, check_wait, open_session, run_to_completion
from bgpipe.pipeline.cli.summary import show_flags, show_jobs, show_summary
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.session import Session, read_settings
from bgpipe.pipeline.types import CLOSED_STATES

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.lease import Lease
    from bgpipe.pipeline.types import JobId, JobSummary


@examples(
    "bgpipe status",
    "bgpipe status spring-2026 --watch",
    "bgpipe status --flagged",
)
def status(
    context: typer.Context,
    job: JobName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    flagged: Annotated[
        bool, typer.Option("--flagged", help="Also list the cutouts that need a review.")
    ] = False,
) -> None:
    """Show the progress of a job."""
    terminal: Console = context.obj
    with open_session(read_settings(), terminal) as session:
        name = session.job(job)
        summary = session.jobs.summary(name)
        with progress(terminal) as show:
            warned = False
            while watch and summary.state not in CLOSED_STATES:
                show(summary)
                if summary.interrupted and not warned:
                    terminal.warn(interruption(name))
                    warned = True
                terminal.print_json(asdict(summary))
                time.sleep(session.settings.dispatch.poll)
                summary = session.jobs.summary(name)
        if flagged:
            show_flags(terminal, session.jobs, name)
        show_summary(terminal, summary, session.jobs.items.failures(name))
        if summary.interrupted:
            terminal.print(interruption(name))


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
    terminal: Console = context.obj
    with open_session(read_settings(), terminal) as session:
        if forget:
            _forget(session, terminal, session.job(forget))
        else:
            readable = _readable(session, terminal)
            show_jobs(terminal, readable)
            for summary, _ in readable:
                if summary.interrupted and not (terminal.json or terminal.quiet):
                    terminal.warn(interruption(summary.job))


@examples("bgpipe errors", "bgpipe --json errors spring-2026 | jq -r .source")
def errors(context: typer.Context, job: JobName = None) -> None:
    """List the failed images of a job with code and reason."""
    terminal: Console = context.obj
    with open_session(read_settings(), terminal) as session:
        for failure in session.jobs.items.failures(session.job(job)):
            terminal.print_json(asdict(failure))
            terminal.print(
                f"{failure.code}  {failure.source}: {failure.detail} (attempts: {failure.attempts})"
            )


@examples("bgpipe cancel spring-2026")
def cancel(context: typer.Context, job: ThatJob) -> None:
    """Stop a job. Images in progress are finished, no others are started."""
    terminal: Console = context.obj
    with open_session(read_settings(), terminal) as session:
        name = session.job(job)
        session.jobs.cancel(name)
        summary = session.jobs.summary(name)
        terminal.print_json(asdict(summary))
        terminal.print(f"cancelled: {name}: bgpipe resume {name} would go on")


@examples("bgpipe resume", "bgpipe resume spring-2026 --detach")
def resume(context: typer.Context, job: JobName = None, wait: Wait = None) -> None:
    """Continue a job that was interrupted or cancelled."""
    terminal: Console = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    with open_session(settings, terminal) as session:
        name = session.job(job)
        lease = _lease(session, name)
        if session.jobs.summary(name).state == "cancelled":
            session.jobs.resume(name, _token(session, lease))
        code = run_to_completion(session, terminal, name, lease, wait=wait)
    raise typer.Exit(code)


@examples("bgpipe retry", "bgpipe retry spring-2026 --detach")
def retry(context: typer.Context, job: JobName = None, wait: Wait = None) -> None:
    """Process the failed images of a finished job again."""
    terminal: Console = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    with open_session(settings, terminal) as session:
        name = session.job(job)
        lease = _lease(session, name)
        if not session.jobs.summary(name).failed:
            raise UsageError(f"nothing to try again: no image of job {name} has failed")
        session.jobs.retry(name, _token(session, lease))
        code = run_to_completion(session, terminal, name, lease, wait=wait)
    raise typer.Exit(code)


def interruption(job: JobId) -> str:
    """How to continue a job that no command leads."""
    return f"interrupted: go on with bgpipe resume {job}"


def _lease(session: Session, job: JobId) -> Lease:
    from bgpipe.pipeline.broker import keys

    return session.lease(keys.lease_of_job(job))


def _token(session: Session, lease: Lease) -> int:
    """The lease's token; a command that was killed may hold it a little longer than it lived."""
    settings = session.settings.dispatch
    deadline = time.monotonic() + settings.lease + settings.poll
    while not (token := lease.acquire()) and time.monotonic() < deadline:
        time.sleep(settings.poll)
    return token


def _forget(session: Session, terminal: Console, job: JobId) -> None:
    session.jobs.forget(job)
    terminal.print_json({"job": job, "forgotten": True})
    terminal.print(f"forgotten: {job}; its cutouts are untouched")


def _readable(session: Session, terminal: Console) -> list[tuple[JobSummary, float]]:
    """The books of all jobs with their Unix time of creation, the newest first.

    Damaged ones are reported and left out.
    """
    found = []
    for job in session.jobs.ids():
        try:
            found.append((session.jobs.summary(job), session.jobs.job(job).created))
        except (StoreCorrupted, UsageError) as error:
            terminal.print_json({"job": job, "error": str(error)})
            terminal.warn(f"bgpipe: {error}")
    return found
