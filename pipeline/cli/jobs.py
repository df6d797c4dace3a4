"""Commands on jobs that are in the ledger: look at them, end them, take them up again."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.parameters import JobName, ThatJob
from bgpipe.pipeline.cli.progress import progress
from bgpipe.pipeline.cli.run import CLOSED, Wait, check_wait, see_through
from bgpipe.pipeline.cli.session import Session, open_session, read_settings
from bgpipe.pipeline.cli.summary import show_books, show_flags, show_jobs
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import LedgerDamaged, UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.lease import Lease
    from bgpipe.pipeline.types import Books, JobId


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
    terminal: Terminal = context.obj
    with open_session(read_settings(), terminal) as session:
        name = session.job(job)
        books = session.ledger.books(name)
        with progress(terminal) as show:
            warned = False
            while watch and books.state not in CLOSED:
                show(books)
                if books.interrupted and not warned:
                    terminal.warn(interruption(name))
                    warned = True
                terminal.emit(asdict(books))
                time.sleep(session.settings.dispatch.poll)
                books = session.ledger.books(name)
        if flagged:
            show_flags(terminal, session.ledger, name)
        show_books(terminal, books, session.ledger.failures(name))
        if books.interrupted:
            terminal.say(interruption(name))


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
    terminal: Terminal = context.obj
    with open_session(read_settings(), terminal) as session:
        if forget:
            _forget(session, terminal, session.job(forget))
        else:
            readable = _readable(session, terminal)
            show_jobs(terminal, readable)
            for books, _ in readable:
                if books.interrupted and not (terminal.json or terminal.quiet):
                    terminal.warn(interruption(books.job))


@examples("bgpipe errors", "bgpipe --json errors spring-2026 | jq -r .source")
def errors(context: typer.Context, job: JobName = None) -> None:
    """List the failed images of a job with code and reason."""
    terminal: Terminal = context.obj
    with open_session(read_settings(), terminal) as session:
        for failure in session.ledger.failures(session.job(job)):
            terminal.emit(asdict(failure))
            terminal.say(
                f"{failure.code}  {failure.source}: {failure.detail} (attempts: {failure.attempts})"
            )


@examples("bgpipe cancel spring-2026")
def cancel(context: typer.Context, job: ThatJob) -> None:
    """Stop a job. Images in progress are finished, no others are started."""
    terminal: Terminal = context.obj
    with open_session(read_settings(), terminal) as session:
        name = session.job(job)
        session.ledger.cancel(name)
        books = session.ledger.books(name)
        terminal.emit(asdict(books))
        terminal.say(f"cancelled: {name}: bgpipe resume {name} would go on")


@examples("bgpipe resume", "bgpipe resume spring-2026 --detach")
def resume(context: typer.Context, job: JobName = None, wait: Wait = None) -> None:
    """Continue a job that was interrupted or cancelled."""
    terminal: Terminal = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    with open_session(settings, terminal) as session:
        name = session.job(job)
        lease = _lease(session, name)
        if session.ledger.books(name).state == "cancelled":
            session.ledger.resume(name, _token(session, lease))
        code = see_through(session, terminal, name, lease, wait=wait)
    raise typer.Exit(code)


@examples("bgpipe retry", "bgpipe retry spring-2026 --detach")
def retry(context: typer.Context, job: JobName = None, wait: Wait = None) -> None:
    """Process the failed images of a finished job again."""
    terminal: Terminal = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    with open_session(settings, terminal) as session:
        name = session.job(job)
        lease = _lease(session, name)
        if not session.ledger.books(name).failed:
            raise UsageError(f"nothing to try again: no image of job {name} has failed")
        session.ledger.retry(name, _token(session, lease))
        code = see_through(session, terminal, name, lease, wait=wait)
    raise typer.Exit(code)


def interruption(job: JobId) -> str:
    """How to continue a job that no command leads."""
    return f"interrupted: go on with bgpipe resume {job}"


def _lease(session: Session, job: JobId) -> Lease:
    from bgpipe.pipeline import keys

    return session.lease(keys.lease_of_job(job))


def _token(session: Session, lease: Lease) -> int:
    """The lease's token; a command that was killed may hold it a little longer than it lived."""
    settings = session.settings.dispatch
    deadline = time.monotonic() + settings.lease + settings.poll
    while not (token := lease.take()) and time.monotonic() < deadline:
        time.sleep(settings.poll)
    return token


def _forget(session: Session, terminal: Terminal, job: JobId) -> None:
    session.ledger.forget(job)
    terminal.emit({"job": job, "forgotten": True})
    terminal.say(f"forgotten: {job}; its cutouts are untouched")


def _readable(session: Session, terminal: Terminal) -> list[tuple[Books, float]]:
    """The books of all jobs with their Unix time of creation, the newest first.

    Damaged ones are reported and left out.
    """
    found = []
    for job in session.ledger.ids():
        try:
            found.append((session.ledger.books(job), session.ledger.job(job).created))
        except (LedgerDamaged, UsageError) as error:
            terminal.emit({"job": job, "error": str(error)})
            terminal.warn(f"bgpipe: {error}")
    return found
