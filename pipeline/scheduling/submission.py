"""How a job begins: opened, listed and started, each under the job's lease."""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.lease import Lease, is_held
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.jobs.store import JobConflict, LeaseLost
from bgpipe.pipeline.planning.planner import IgnoredObjects, list_job
from bgpipe.pipeline.planning.prune import Prune
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import Job, JobId


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """A job and its lease.

    `id` differs from that of the submitted job where an open job does the same; `replaced` is an
    abandoned one that was cancelled.
    """

    id: JobId
    lease: Lease
    replaced: JobId | None = None


def open_job(session: Session, job: Job, named: Sequence[str] = ()) -> Lease:
    """Open `job` under its lease, so that no other process sees it without a leader.

    `named` and errors as for `JobStore.open`.
    """
    lease = session.job_lease(job.id)
    lease.acquire()
    try:
        session.jobs.open(job, named)
    except UsageError:
        lease.release()
        raise
    return lease


def open_or_join(session: Session, job: Job, named: Sequence[str] = ()) -> OpenedJob:
    """Open `job`, or join the job that does the same; one that has no leader is replaced.

    UsageError if a job of this name exists, or another one writes other cutouts there.
    """
    try:
        return OpenedJob(job.id, open_job(session, job, named))
    except JobConflict as error:
        other = error.job
    leases = (keys.DISPATCH, keys.lease_of_job(other))
    if not any(is_held(session.client, name) for name in leases):
        session.jobs.cancel(other)
        return OpenedJob(job.id, open_job(session, job, named), replaced=other)
    same = session.jobs.job(other)
    if not job.same_as(same):
        raise UsageError(
            f"job {other} is writing cutouts of another kind to {same.out}: "
            f"wait for its end, or bgpipe cancel {other}"
        )
    return OpenedJob(other, session.job_lease(other))


def list_and_start(
    session: Session,
    job_id: JobId,
    lease: Lease,
    growing: Container[str] = (),
    on_work: Callable[[], None] = lambda: None,
    prune: Prune | None = None,
) -> IgnoredObjects | None:
    """List the job and start it; returns None while another process leads it.

    `lease` is the job's. Keys in `growing` are left for a later job; `on_work` is called, perhaps
    repeatedly, once an image has to be processed; `prune` is called with the orphans. Errors as for
    `list_job`; the job is then forgotten.
    """
    token = lease.acquire()
    if not token:
        return None
    job = session.jobs.job(job_id)
    source, target = session.stores.open(job.source), session.stores.open(job.out)
    # An upload's folder is written only once: it needs no catalog.
    catalogs = None if job.owner and not target.is_remote else session.catalogs
    try:
        return list_job(session.jobs, catalogs, job, source, target, token, growing, on_work, prune)
    except LeaseLost:
        return None
