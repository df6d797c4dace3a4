"""Commands on existing jobs: what they did, their end, their continuation, their contact sheet."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from typer import Argument, Context, Exit, Option, Typer

from bgpipe.pipeline.broker.dead_messages import describe_dead
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import JOB, WAIT, examples, file_option, flag, open_session
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.summary import (
    show_flags,
    show_jobs,
    show_progress,
    show_scores,
    show_summary,
)
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import CLOSED_STATES, JobId, JobState, JobSummary

if TYPE_CHECKING:
    from bgpipe.pipeline.jobs.store import JobStore

app = Typer()


@app.command(
    epilog=examples(
        "bgpipe status",
        "bgpipe status spring-2026 --watch",
        "bgpipe status --flagged",
        "bgpipe status --below 0.8",
    )
)
def status(
    context: Context,
    job: str | None = JOB,
    watch: bool = flag("--watch", help="Follow the job until it ends."),
    flagged: bool = flag("--flagged", help="Also list the cutouts that need a review."),
    below: float = Option(
        0.0, metavar="SCORE", min=0, max=1, help="Also list the cutouts with a lower score."
    ),
) -> None:
    with open_session(context) as (console, session):
        job_id = session.job(job)
        summary = session.jobs.summary(job_id)
        if watch:
            summary = _follow(session, console, summary)
        if flagged:
            show_flags(console, session.jobs, job_id)
        show_scores(console, session.jobs, job_id, below)
        show_summary(console, summary, session.jobs.items.failures(job_id))
        if summary.interrupted:
            console.print(_resume_hint(summary))


def _follow(session: Session, console: Console, summary: JobSummary) -> JobSummary:
    """Show the progress until the job is closed; returns its last summary."""
    warned = False
    with show_progress(console) as show:
        while summary.state not in CLOSED_STATES:
            show(summary)
            if summary.interrupted and not warned:
                console.warn(_resume_hint(summary))
                warned = True
            console.print_json(asdict(summary))
            time.sleep(session.settings.dispatch.poll)
            summary = session.jobs.summary(summary.job)
    return summary


@app.command(epilog=examples("bgpipe jobs", "bgpipe jobs --forget spring-2026"))
def jobs(
    context: Context,
    forget: str | None = Option(
        None,
        metavar="JOB",
        help="Remove an ended job from the list. Its cutouts stay.",
        autocompletion=completion.jobs,
    ),
) -> None:
    with open_session(context) as (console, session):
        if forget:
            job_id = session.job(forget)
            session.jobs.forget(job_id)
            record = {"job": job_id, "forgotten": True}
            console.show(record, f"forgotten: {job_id}: its cutouts are unchanged")
            return
        summaries = _readable_summaries(session, console)
        dead = describe_dead(session.client)
    show_jobs(console, summaries)
    if dead:
        console.warn(dead)
    if console.is_verbose:
        for summary, _ in summaries:
            if summary.interrupted:
                console.warn(_resume_hint(summary))


@app.command(epilog=examples("bgpipe errors", "bgpipe --json errors spring-2026 | jq -r .source"))
def errors(context: Context, job: str | None = JOB) -> None:
    with open_session(context) as (console, session):
        for failure in session.jobs.items.failures(session.job(job)):
            line = f"{failure.code}  {failure.source}: {failure.detail}"
            console.show(asdict(failure), f"{line} (attempts: {failure.attempts})")


@app.command(epilog=examples("bgpipe cancel spring-2026"))
def cancel(
    context: Context,
    job: str = Argument(
        ..., metavar="JOB", help="A name that bgpipe jobs lists.", autocompletion=completion.jobs
    ),
) -> None:
    with open_session(context) as (console, session):
        job_id = session.job(job)
        session.jobs.cancel(job_id)
        console.print_json(asdict(session.jobs.summary(job_id)))
        console.print(f"cancelled: {job_id}: continue with bgpipe resume {job_id}")


@app.command(epilog=examples("bgpipe resume", "bgpipe resume spring-2026 --detach"))
def resume(context: Context, job: str | None = JOB, wait: bool | None = WAIT) -> None:
    with _run_after_reopening(context, job, wait) as (store, job_id, acquire):
        store.unpause(job_id)
        if store.summary(job_id).state is JobState.CANCELLED:
            store.resume(job_id, acquire())


@app.command(epilog=examples("bgpipe retry", "bgpipe retry spring-2026 --detach"))
def retry(context: Context, job: str | None = JOB, wait: bool | None = WAIT) -> None:
    with _run_after_reopening(context, job, wait) as (store, job_id, acquire):
        if not store.summary(job_id).failed:
            raise UsageError(f"nothing to retry: no image of job {job_id} has failed")
        store.retry(job_id, acquire())


@app.command(
    epilog=examples("bgpipe report", "bgpipe report spring-2026 --out sheet.html --images 200")
)
def report(
    context: Context,
    job: str | None = JOB,
    out: Path | None = file_option("--out", "-o", help="Output file. Default: JOB.html."),
    open_: bool = flag("--open", help="Show it in the browser."),
    images: int = Option(1000, metavar="N", min=1, help="Maximum number of images."),
    per_page: int = Option(1000, metavar="N", min=1, help="Images per file."),
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


@contextmanager
def _run_after_reopening(
    context: Context, name: str | None, wait: bool | None
) -> Iterator[tuple[JobStore, JobId, Callable[[], int]]]:
    """Yield the store, the job's id, and a function that acquires its lease and returns the token.

    After the block, which reopens the job, run it to its end and exit with its code.
    """
    from bgpipe.pipeline.cli.run import JobRun, check_wait, run_to_completion

    with open_session(context) as (console, session):
        check_wait(session.settings, wait)
        job_id, settings = session.job(name), session.settings.dispatch
        lease = session.job_lease(job_id)
        # It waits: a command that was killed keeps its lease for a while.
        yield session.jobs, job_id, partial(lease.acquire, settings.lease + settings.poll)
        code = run_to_completion(console, JobRun(session, job_id, lease), wait=wait)
    raise Exit(code)


def _write_pages(
    session: Session, summary: JobSummary, first: Path, images: int, per_page: int
) -> int:
    """Write the pages and return their number."""
    from bgpipe.pipeline.report.contact_sheet import load_thumbnails, render_contact_sheet

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


def _resume_hint(summary: JobSummary) -> str:
    return f"interrupted: continue with bgpipe resume {summary.job}"


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
