"""`bgpipe submit`: a folder in, a job in the ledger, cutouts out."""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.recipe import choose_recipe
from bgpipe.pipeline.cli.run import run_job
from bgpipe.pipeline.cli.session import Session, open_session, read_settings
from bgpipe.pipeline.cli.summary import exit_code, show_books
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.source import Source
    from bgpipe.pipeline.types import Books, Job

Globs = list[str] | None


def submit(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A folder, a file, @list.txt, or - for a list.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the cutouts; default: <folder>-cutouts.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="balanced, products, portraits, raw.")] = None,
    set_: Annotated[Globs, typer.Option("--set", metavar="K=V", help="Change one value.")] = None,
    model: Annotated[str | None, typer.Option(help="A name, or a path to safetensors.")] = None,
    include: Annotated[Globs, typer.Option(metavar="GLOB", help="Only keys like this.")] = None,
    exclude: Annotated[Globs, typer.Option(metavar="GLOB", help="No keys like this.")] = None,
    format_: Annotated[str, typer.Option("--format", help="png")] = "png",
    force: Annotated[bool, typer.Option("--force", help="Redo what is up to date.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and do nothing.")] = False,
    wait: Annotated[
        bool | None, typer.Option("--wait/--detach", help="Stay until the job has ended.")
    ] = None,
    job: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the job.")] = None,
) -> None:
    """Make cutouts of every image in SOURCE; what is up to date is skipped."""
    from bgpipe.pipeline.cli.source import find_source
    from bgpipe.pipeline.types import Job, JobId

    terminal: Terminal = context.obj
    settings = read_settings()
    _check_options(settings, format_, wait)
    chosen = find_source(source)
    recipe = choose_recipe(settings, terminal, model=model, preset=preset, assignments=set_ or [])
    order = Job(
        id=JobId(job or _new_name()),
        source=str(chosen.root),
        out=str(Path(out or chosen.default_out).absolute()),
        recipe=recipe,
        created=time.time(),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
    )
    if dry_run:
        _count(terminal, order, chosen, force=force)
        return
    with open_session(settings) as session:
        books = _open(session, order, chosen, force=force)
        stay = sys.stdout.isatty() if wait is None else wait
        if settings.embedded or stay:
            books = run_job(session, terminal, order.id)
            show_books(terminal, books, session.ledger.failures(order.id))
        else:
            session.feeder().feed(order.id)
            terminal.emit(asdict(session.ledger.books(order.id)))
            terminal.say(order.id)
    raise typer.Exit(exit_code(books))


def _check_options(settings: Settings, format_: str, wait: bool | None) -> None:
    if format_ != "png":
        raise UsageError(f"unknown format: {format_} (this version writes png)")
    if settings.embedded and wait is False:
        raise UsageError("nobody would do a detached job without a cluster: set BGPIPE_REDIS_URL")


def _open(session: Session, order: Job, chosen: Source, *, force: bool) -> Books:
    """List the source and write the job's books."""
    from bgpipe.pipeline.producer import open_job
    from bgpipe.pipeline.storage import open_store

    source, target = open_store(order.source), open_store(order.out)
    return open_job(session.ledger, order, chosen.entries(source), source, target, force=force)


def _count(terminal: Terminal, order: Job, chosen: Source, *, force: bool) -> None:
    """Say what the job would do."""
    from bgpipe.pipeline.producer import survey
    from bgpipe.pipeline.storage import open_store

    source, target = open_store(order.source), open_store(order.out)
    batches = survey(order, chosen.entries(source), source, target, force=force)
    planned = [image for batch in batches for image in batch]
    current = sum(image.current for image in planned)
    terminal.emit({"total": len(planned), "skipped": current, "model": order.recipe.model})
    terminal.say(
        f"{len(planned)} images: {len(planned) - current} to do with {order.recipe.model}, "
        f"{current} up to date; cutouts would go to {order.out}"
    )


def _new_name() -> str:
    """Sorts by time, and is unlikely to be given twice."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
