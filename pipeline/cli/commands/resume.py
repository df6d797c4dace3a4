"""`bgpipe resume` and `bgpipe retry`: reopen a job and run it to its end."""

from collections.abc import Callable

from typer import Context, Exit, Typer

from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.cli.command_line import examples, open_session
from bgpipe.pipeline.cli.parameters import OptionalJob, Wait
from bgpipe.pipeline.cli.run import JobRun, check_wait, run_to_completion
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import JobId, JobState

app = Typer()


@app.command(epilog=examples("bgpipe resume", "bgpipe resume spring-2026 --detach"))
def resume(context: Context, job: OptionalJob = None, wait: Wait = None) -> None:
    def reopen(session: Session, job_id: JobId, lease: Lease) -> None:
        session.jobs.unpause(job_id)
        if session.jobs.summary(job_id).state is JobState.CANCELLED:
            session.jobs.resume(job_id, _acquire(session, lease))

    _continue(context, job, wait, reopen)


@app.command(epilog=examples("bgpipe retry", "bgpipe retry spring-2026 --detach"))
def retry(context: Context, job: OptionalJob = None, wait: Wait = None) -> None:
    def reopen(session: Session, job_id: JobId, lease: Lease) -> None:
        if not session.jobs.summary(job_id).failed:
            raise UsageError(f"nothing to retry: no image of job {job_id} has failed")
        session.jobs.retry(job_id, _acquire(session, lease))

    _continue(context, job, wait, reopen)


def _continue(
    context: Context,
    name: str | None,
    wait: bool | None,
    reopen: Callable[[Session, JobId, Lease], None],
) -> None:
    with open_session(context) as (console, session):
        check_wait(session.settings, wait)
        job_id = session.job(name)
        lease = session.job_lease(job_id)
        reopen(session, job_id, lease)
        code = run_to_completion(console, JobRun(session, job_id, lease), wait=wait)
    raise Exit(code)


def _acquire(session: Session, lease: Lease) -> int:
    """Return the lease's token; a command that was killed keeps it for a while."""
    settings = session.settings.dispatch
    return lease.acquire(settings.lease + settings.poll)
