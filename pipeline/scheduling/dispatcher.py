"""Who leads a job, and what a leader does: feed it, send again what was lost, forget what is old.

A command sees its own job through with a `Leader`. The dispatcher of a cluster does the same for
all jobs that run. A lease for each job keeps two of them apart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from bgpipe.config.settings import DispatchSettings
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.jobs.store import JobStore, LeaseLost
from bgpipe.pipeline.scheduling.feeder import BATCH, Feeder
from bgpipe.pipeline.types import JobId

IDLE_STEPS = 2
"""Turns in a row that see no message before any counts as lost: while a worker receives one, it is
in no place that can be seen."""
MARGIN = 30.0
"""Seconds beyond the visibility timeout after which a message counts as lost in a busy queue too."""
CLEANING = 600.0
"""Seconds between two looks for jobs that are too old to be kept."""
DAY = 86_400.0

log = logging.getLogger(__name__)


class JobController:
    """Leads one job, as long as nobody else does. Call `turn` again and again."""

    def __init__(
        self,
        job_store: JobStore,
        feeder: Feeder,
        lease: Lease,
        job: JobId,
        patience: float,
    ) -> None:
        """`patience`: seconds without an outcome after which published messages may be lost."""
        self._job_store = job_store
        self._feeder = feeder
        self._lease = lease
        self._job = job
        self._patience = patience
        self._quiet = 0
        self._ended = -1
        self._since = 0.0
        self.is_leader = False
        """Whether the last turn was ours."""

    def step(self, room: int) -> bool:
        """Publish at most `room` messages, and what was lost; returns whether more could follow."""
        token = self._lease.acquire()
        try:
            fed = bool(token) and self._feeder.publish_next(self._job, min(room, BATCH), token)
        except LeaseLost:
            token = 0
        self.is_leader = bool(token)
        if self.is_leader:
            self._republish_lost(fed=fed)
        return self.is_leader and not fed and room > BATCH

    def release(self) -> None:
        """Let others lead at once."""
        self.is_leader = False
        self._lease.release()

    def _republish_lost(self, *, fed: bool) -> None:
        summary = self._job_store.summary(self._job)
        ended, now = summary.done + summary.failed, time.monotonic()
        if ended != self._ended:
            self._ended, self._since = ended, now
        self._quiet = self._quiet + 1 if fed and not self._feeder.depth() else 0
        if self._quiet >= IDLE_STEPS:
            self._quiet = 0
            self._feeder.republish_lost(self._job)
        elif now - self._since >= self._patience:
            self._since = now
            self._feeder.republish_lost(self._job, claimed=True)


class Dispatcher:
    """Leads all jobs of a cluster that run, while no other dispatcher does."""

    def __init__(
        self,
        job_store: JobStore,
        feeder: Feeder,
        lease: Lease,
        lead: Callable[[JobId], JobController],
        settings: DispatchSettings,
    ) -> None:
        """`lead` makes the leader of one job."""
        self._job_store = job_store
        self._feeder = feeder
        self._lease = lease
        self._lead = lead
        self._settings = settings
        self._leaders: dict[JobId, JobController] = {}
        self._troubles: dict[JobId, str] = {}
        self._turns = 0
        self._cleaned = -CLEANING
        self.leads = False
        """Whether the last turn was ours."""

    def step(self) -> bool:
        """Do once what there is to do for every job; returns whether more could follow at once."""
        led, self.leads = self.leads, bool(self._lease.acquire())
        if self.leads != led:
            log.info("leads" if self.leads else "stands by")
        if not self.leads:
            self._release_all()
            return False
        self._clean()
        jobs = self._job_store.running_ids()
        self._release_all(but=jobs)
        return self._feed(jobs)

    def release(self) -> None:
        """Let another dispatcher lead at once."""
        self._release_all()
        self._lease.release()

    def _feed(self, jobs: Sequence[JobId]) -> bool:
        """Feed first what people wait for, then as many images of sweeps as they would wait for."""
        sweeps = [job for job in jobs if self._is_sweep(job)]
        submitted = [job for job in jobs if job not in sweeps]
        self._turns += 1
        more = self._share(submitted, self._feeder.capacity)
        return self._share(sweeps, self._sweep_capacity) or more

    def _share(self, jobs: Sequence[JobId], room: Callable[[], int]) -> bool:
        """Give each of `jobs` its share of the room, beginning with another one each time."""
        if not jobs:
            return False
        first = self._turns % len(jobs)
        share = -(-room() // len(jobs))
        more = False
        for job in [*jobs[first:], *jobs[:first]]:
            more |= self._step_job(job, min(share, room()))
        return more

    def _sweep_capacity(self) -> int:
        return max(0, self._settings.sweep_messages - self._feeder.depth())

    def _is_sweep(self, job: JobId) -> bool:
        try:
            return bool(self._job_store.job(job).sweep)
        except (StoreCorrupted, UsageError):
            return False  # its turn tells of it

    def _step_job(self, job: JobId, room: int) -> bool:
        """One turn of a job's leader; a job in trouble is told once and keeps nobody from work."""
        leader = self._leaders.get(job) or self._leaders.setdefault(job, self._lead(job))
        try:
            return leader.step(room)
        except (StoreCorrupted, UsageError) as error:
            if self._troubles.get(job) != str(error):
                self._troubles[job] = str(error)
                log.warning("job cannot be fed", extra={"fields": {"job": job, "error": error}})
            return False

    def _release_all(self, but: Collection[JobId] = ()) -> None:
        for job in [job for job in self._leaders if job not in but]:
            self._leaders.pop(job).release()

    def _clean(self) -> None:
        if time.monotonic() - self._cleaned >= CLEANING:
            self._cleaned = time.monotonic()
            for job in forget_old(self._job_store, self._settings.keep_days):
                log.info("job forgotten", extra={"fields": {"job": job}})


def forget_old(job_store: JobStore, keep_days: float) -> list[JobId]:
    """Forget the jobs that have been closed for longer than `keep_days`; returns them."""
    old = job_store.closed_before(time.time() - keep_days * DAY)
    for job in old:
        job_store.forget(job)
    return old
