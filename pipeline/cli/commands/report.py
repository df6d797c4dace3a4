"""`bgpipe report`: a job's pictures on a page, or on several."""

from __future__ import annotations

import webbrowser
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.parameters import JobName, output_file
from bgpipe.pipeline.cli.run import open_session
from bgpipe.pipeline.session import Session, read_settings

if TYPE_CHECKING:
    from bgpipe.pipeline.types import JobId

DEFAULT_IMAGES = 1000
PER_PAGE = 1000


@examples("bgpipe report", "bgpipe report spring-2026 --out sheet.html --images 200")
def report(
    context: typer.Context,
    job: JobName = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file. Default: JOB.html.",
            callback=output_file,
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    images: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum number of images.")
    ] = DEFAULT_IMAGES,
    per_page: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images per file; the rest go to more files.")
    ] = PER_PAGE,
) -> None:
    """Write a contact sheet of a job: one HTML file with the images inside."""
    terminal: Console = context.obj
    with open_session(read_settings(), terminal) as session:
        name = session.job(job)
        summary = session.jobs.summary(name)
        if not summary.done + summary.failed:
            terminal.print(f"no contact sheet written: job {name} made no cutouts")
            return
        first = out or Path(f"{name}.html")
        pages = _write(session, name, first, images, per_page)
    terminal.print_json({"job": name, "report": str(first), "pages": pages})
    further = f" and {pages - 1} more beside it" if pages > 1 else ""
    terminal.print(f"contact sheet: {first}{further}")
    if open_ and not webbrowser.open(first.absolute().as_uri()):
        terminal.warn(f"no browser found: open {first} yourself")


def _write(session: Session, job: JobId, first: Path, images: int, per_page: int) -> int:
    """Write the pages and return their number."""
    from bgpipe.pipeline.report.contact_sheet import SheetPage, contact_sheet
    from bgpipe.pipeline.report.thumbnails import load_thumbnails

    job_store = session.jobs
    summary, recipe = job_store.summary(job), job_store.job(job).recipe
    shown = load_thumbnails(job_store, session.stores, job, session.settings.images, images)
    count = -(-min(images, max(summary.done, 1)) // per_page)
    paths = [first.with_stem(f"{first.stem}-{n}") if n > 1 else first for n in range(1, count + 1)]
    for number, path in enumerate(paths, 1):
        page = SheetPage(number, [each.name for each in paths])
        with path.open("w", encoding="utf-8") as file:
            batch = list(islice(shown, per_page))
            file.writelines(
                contact_sheet(summary, recipe, batch, job_store.items.failures(job), page)
            )
    return count
