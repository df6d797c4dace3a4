"""Commands that look at jobs, and the one that takes an interrupted job up again."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from bgpipe.pipeline.cli.progress import progress
from bgpipe.pipeline.cli.session import open_session, read_settings
from bgpipe.pipeline.cli.summary import exit_code, sentence, show_books
from bgpipe.pipeline.cli.terminal import Terminal

JobName = Annotated[str | None, typer.Argument(metavar="[JOB]", help="Default: the latest job.")]


def status(
    context: typer.Context,
    job: JobName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
) -> None:
    """Show how a job stands."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        name = session.job(job)
        books = session.ledger.books(name)
        with progress(terminal) as show:
            while watch and books.state in {"listing", "running"}:
                show(books)
                time.sleep(0.5)
                books = session.ledger.books(name)
        show_books(terminal, books, session.ledger.failures(name))


def jobs(context: typer.Context) -> None:
    """List the jobs that the ledger knows, newest first."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        for books in session.ledger.jobs():
            terminal.emit(asdict(books))
            terminal.say(sentence(books))


def errors(context: typer.Context, job: JobName = None) -> None:
    """List the images of a job that failed, with code and reason."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        for failure in session.ledger.failures(session.job(job)):
            terminal.emit(asdict(failure))
            terminal.say(
                f"{failure.code}  {failure.source}: {failure.detail} (attempts: {failure.attempts})"
            )


def resume(context: typer.Context, job: JobName = None) -> None:
    """Take up a job whose command was interrupted, and wait for its end."""
    from bgpipe.pipeline.cli.run import run_job

    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        name = session.job(job)
        books = run_job(session, terminal, name)
        show_books(terminal, books, session.ledger.failures(name))
    raise typer.Exit(exit_code(books))
