"""`bgpipe report`: the contact sheet of a job."""

import webbrowser
from itertools import islice
from pathlib import Path
from typing import Annotated

from typer import Context, Option, Typer

from bgpipe.pipeline.cli.command_line import examples, open_session
from bgpipe.pipeline.cli.parameters import OptionalJob, check_output_file
from bgpipe.pipeline.report.contact_sheet import render_contact_sheet
from bgpipe.pipeline.report.thumbnails import load_thumbnails
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import JobSummary

app = Typer()


@app.command(
    epilog=examples("bgpipe report", "bgpipe report spring-2026 --out sheet.html --images 200")
)
def report(
    context: Context,
    job: OptionalJob = None,
    out: Annotated[
        Path | None,
        Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file. Default: JOB.html.",
            callback=check_output_file,
        ),
    ] = None,
    open_: Annotated[bool, Option("--open", help="Show it in the browser.")] = False,
    images: Annotated[int, Option(metavar="N", min=1, help="Maximum number of images.")] = 1000,
    per_page: Annotated[int, Option(metavar="N", min=1, help="Images per file.")] = 1000,
) -> None:
    with open_session(context) as (console, session):
        summary = session.jobs.summary(session.job(job))
        if not summary.done + summary.failed:
            console.print(f"no contact sheet written: job {summary.job} made no cutouts")
            return
        first = out or Path(f"{summary.job}.html")
        pages = _write_pages(session, summary, first, images, per_page)
    further = f" and {pages - 1} more beside it" if pages > 1 else ""
    record = {"job": summary.job, "report": str(first), "pages": pages}
    console.show(record, f"contact sheet: {first}{further}")
    if open_ and not webbrowser.open(first.absolute().as_uri()):
        console.warn(f"no browser found: open {first} yourself")


def _write_pages(
    session: Session, summary: JobSummary, first: Path, images: int, per_page: int
) -> int:
    """Write the pages and return their number."""
    jobs, job_id = session.jobs, summary.job
    recipe = jobs.job(job_id).recipe
    shown = load_thumbnails(jobs, session.stores, job_id, session.settings.images, images)
    count = -(-min(images, max(summary.done, 1)) // per_page)
    paths = [first, *(first.with_stem(f"{first.stem}-{n}") for n in range(2, count + 1))]
    names = [path.name for path in paths]
    for number, path in enumerate(paths, 1):
        batch, failures = list(islice(shown, per_page)), jobs.items.failures(job_id)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(render_contact_sheet(summary, recipe, batch, failures, names, number))
    return count
