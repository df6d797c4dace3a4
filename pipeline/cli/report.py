"""`bgpipe report`: a job's pictures on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.jobs import JobName
from bgpipe.pipeline.cli.session import Session, open_session, read_settings
from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.pipeline.types import JobId

DEFAULT_IMAGES = 200


def report(
    context: typer.Context,
    job: JobName = None,
    out: Annotated[Path | None, typer.Option(help="The page; default: <job>.html.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Show so many at most.")] = DEFAULT_IMAGES,
) -> None:
    """Write a contact sheet of a job: one HTML page that carries its pictures in itself."""
    terminal: Terminal = context.obj
    with open_session(read_settings()) as session:
        name = session.job(job)
        if not session.ledger.books(name).done:
            terminal.warn(f"no contact sheet written: {name} made no cutouts")
            return
        page = out or Path(f"{name}.html")
        page.write_text(_page(session, name, images), encoding="utf-8")
    terminal.emit({"job": name, "report": str(page)})
    terminal.say(f"contact sheet: {page}")


def _page(session: Session, job: JobId, images: int) -> str:
    from bgpipe.pipeline.report.contact_sheet import contact_sheet
    from bgpipe.pipeline.report.exhibits import exhibits

    ledger = session.ledger
    shown = exhibits(ledger, job, session.settings.images, images)
    return contact_sheet(ledger.books(job), shown, ledger.failures(job))
