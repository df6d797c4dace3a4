"""Commands on jobs that are in the ledger: look at them, end them, take them up again."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.progress import progress
from bgpipe.pipeline.cli.run import CLOSED, Wait, check_wait, see_through
from bgpipe.pipeline.cli.session import Session, open_session, read_settings
from bgpipe.pipeline.cli.summary import show_books, show_flags, show_jobs
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import LedgerDamaged, UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.lease import Lease
    from bgpipe.pipeline.types import Books, JobId

LATEST = "Default: the latest job."

JobName = Annotated[str | None, typer.Argument(metavar="[JOB]", help=LATEST)]
ThatJob = Annotated[str, typer.Argument(metavar="JOB", help="Its name, as bgpipe jobs lists it.")]


def status(
    context: typer.Context,
    job: JobName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    flagged: Annotated[
        bool, typer.Option("--flagged", help="Also list the cutouts that somebody should look at.")
    ] = False,
) -> None:
    """Show how a job stands."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        name = session.job(job)
        books = session.ledger.books(name)
        with progress(terminal) as show:
            while watch and books.state not in CLOSED:
                show(books)
                terminal.emit(asdict(books))
                time.sleep(session.settings.dispatch.poll)
                books = session.ledger.books(name)
        if flagged:
            show_flags(terminal, session.ledger, name)
        show_books(terminal, books, session.ledger.failures(name))


def jobs(
    context: typer.Context,
    forget: Annotated[
        str | None, typer.Option(metavar="JOB", help="Remove a job that is over from the ledger.")
    ] = None,
) -> None:
    """List the jobs that the ledger knows, newest first."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        if forget:
            _forget(session, terminal, session.job(forget))
        else:
            show_jobs(terminal, _readable(session, terminal))


def errors(context: typer.Context, job: JobName = None) -> None:
    """List the images of a job that failed, with code and reason."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        for failure in session.ledger.failures(session.job(job)):
            terminal.emit(asdict(failure))
            terminal.say(
                f"{failure.code}  {failure.source}: {failure.detail} (attempts: {failure.attempts})"
            )


def cancel(context: typer.Context, job: ThatJob) -> None:
    """End a job: what is in flight is finished, nothing else is begun."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        name = session.job(job)
        session.ledger.cancel(name)
        books = session.ledger.books(name)
        terminal.emit(asdict(books))
        terminal.say(f"cancelled: {name}: bgpipe resume {name} would go on")


def resume(context: typer.Context, job: JobName = None, wait: Wait = None) -> None:
    """Take up a job whose command was interrupted, or that was cancelled."""
    terminal: Terminal = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    with open_session(settings) as session:
        name = session.job(job)
        lease = _lease(session, name)
        if session.ledger.books(name).state == "cancelled":
            session.ledger.resume(name, _token(session, lease))
        code = see_through(session, terminal, name, lease, wait=wait)
    raise typer.Exit(code)


def retry(context: typer.Context, job: JobName = None, wait: Wait = None) -> None:
    """Do the images of a finished job again that failed, and no others."""
    terminal: Terminal = context.obj
    settings = read_settings()
    check_wait(settings, wait)
    with open_session(settings) as session:
        name = session.job(job)
        lease = _lease(session, name)
        if not session.ledger.books(name).failed:
            raise UsageError(f"nothing to try again: no image of job {name} has failed")
        session.ledger.retry(name, _token(session, lease))
        code = see_through(session, terminal, name, lease, wait=wait)
    raise typer.Exit(code)


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


def _readable(session: Session, terminal: Terminal) -> list[Books]:
    """The books of all jobs, the newest first; what cannot be read is said and left out."""
    found = []
    for job in session.ledger.ids():
        try:
            found.append(session.ledger.books(job))
        except (LedgerDamaged, UsageError) as error:
            terminal.emit({"job": job, "error": str(error)})
            terminal.warn(f"bgpipe: {error}")
    return found
