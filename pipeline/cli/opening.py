"""Opening a job, or following the one that does the same already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.session import Session
from bgpipe.pipeline.cli.terminal import Console
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.lease import Lease
    from bgpipe.pipeline.types import Job, JobId


def open_job(
    session: Session, terminal: Console, job: Job, named: Sequence[str] = ()
) -> tuple[JobId, Lease]:
    """Open the job, or find the one that does the same already; with the lease of either."""
    from bgpipe.pipeline import keys
    from bgpipe.pipeline.ledger import JobConflict

    lease = session.lease(keys.lease_of_job(job.id))
    lease.acquire()  # before others can see the job and miss its leader
    try:
        session.jobs.open(job, named)
    except JobConflict as error:
        if session.is_attended(error.job):
            lease.release()
            _check_same(session.jobs.job(error.job), job)
            terminal.warn(f"following job {error.job}, which does this already")
            return error.job, session.lease(keys.lease_of_job(error.job))
        terminal.warn(f"job {error.job} was abandoned: {job.id} replaces it")
        session.jobs.cancel(error.job)
        session.jobs.open(job, named)
    return job.id, lease


def _check_same(other: Job, job: Job) -> None:
    if not job.same_as(other):
        raise UsageError(
            f"job {other.id} is writing cutouts of another kind to {other.out}: "
            f"wait for its end, or bgpipe cancel {other.id}"
        )
