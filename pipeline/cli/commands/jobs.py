"""Commands on existing jobs that start nothing: `status`, `jobs`, `errors` and `cancel`."""

import time
from dataclasses import asdict
from typing import Annotated

from typer import Context, Option, Typer

from bgpipe.pipeline.broker.dead_messages import describe_dead
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples, open_session
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.parameters import OptionalJob, RequiredJob
from bgpipe.pipeline.cli.progress import show_progress
from bgpipe.pipeline.cli.summary import show_flags, show_jobs, show_scores, show_summary
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import CLOSED_STATES, JobSummary

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
    job: OptionalJob = None,
    watch: Annotated[bool, Option("--watch", help="Follow the job until it ends.")] = False,
    flagged: Annotated[
        bool, Option("--flagged", help="Also list the cutouts that need a review.")
    ] = False,
    below: Annotated[
        float,
        Option(metavar="SCORE", min=0, max=1, help="Also list the cutouts with a lower score."),
    ] = 0.0,
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
    forget: Annotated[
        str | None,
        Option(
            metavar="JOB",
            help="Remove an ended job from the list. Its cutouts stay.",
            autocompletion=completion.jobs,
        ),
    ] = None,
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
def errors(context: Context, job: OptionalJob = None) -> None:
    with open_session(context) as (console, session):
        for failure in session.jobs.items.failures(session.job(job)):
            line = (
                f"{failure.code}  {failure.source}: {failure.detail} (attempts: {failure.attempts})"
            )
            console.show(asdict(failure), line)


@app.command(epilog=examples("bgpipe cancel spring-2026"))
def cancel(context: Context, job: RequiredJob) -> None:
    with open_session(context) as (console, session):
        job_id = session.job(job)
        session.jobs.cancel(job_id)
        console.print_json(asdict(session.jobs.summary(job_id)))
        console.print(f"cancelled: {job_id}: continue with bgpipe resume {job_id}")


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
