"""Who leads a job, and what a leader does: feed it, send again what was lost, forget what is old.

A command sees its own job through with a `Leader`. The dispatcher of a cluster does the same for
all jobs that run. A lease for each job keeps two of them apart.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

from bgpipe.config.settings import DispatchSettings
from bgpipe.pipeline.errors import LedgerDamaged, UsageError
from bgpipe.pipeline.feeder import BATCH, Feeder
from bgpipe.pipeline.lease import Lease
from bgpipe.pipeline.ledger import Ledger, Superseded
from bgpipe.pipeline.types import JobId

QUIET_TURNS = 2
"""Turns in a row that see no message before any counts as lost: while a worker receives one, it is
in no place that can be seen."""
MARGIN = 30.0
"""Seconds beyond the visibility timeout after which a message counts as lost in a busy queue too."""
CLEANING = 600.0
"""Seconds between two looks for jobs that are too old to be kept."""
DAY = 86_400.0

log = logging.getLogger(__name__)


class Leader:
    """Leads one job, as long as nobody else does. Call `turn` again and again."""

    def __init__(
        self,
        ledger: Ledger,
        feeder: Feeder,
        lease: Lease,
        job: JobId,
        patience: float,
    ) -> None:
        """`patience`: seconds without an outcome after which published messages may be lost."""
        self._ledger = ledger
        self._feeder = feeder
        self._lease = lease
        self._job = job
        self._patience = patience
        self._quiet = 0
        self._ended = -1
        self._since = 0.0
        self.leads = False
        """Whether the last turn was ours."""

    def turn(self, room: int) -> bool:
        """Publish at most `room` messages, and what was lost; returns whether more could follow."""
        token = self._lease.take()
        try:
            fed = bool(token) and self._feeder.step(self._job, min(room, BATCH), token)
        except Superseded:
            token = 0
        self.leads = bool(token)
        if self.leads:
            self._look_for_losses(fed=fed)
        return self.leads and not fed and room > BATCH

    def leave(self) -> None:
        """Let others lead at once."""
        self.leads = False
        self._lease.free()

    def _look_for_losses(self, *, fed: bool) -> None:
        books = self._ledger.books(self._job)
        ended, now = books.done + books.failed, time.monotonic()
        if ended != self._ended:
            self._ended, self._since = ended, now
        self._quiet = self._quiet + 1 if fed and not self._feeder.depth() else 0
        if self._quiet >= QUIET_TURNS:
            self._quiet = 0
            self._feeder.reconcile(self._job)
        elif now - self._since >= self._patience:
            self._since = now
            self._feeder.reconcile(self._job, claimed=True)


class Dispatcher:
    """Leads all jobs of a cluster that run, while no other dispatcher does."""

    def __init__(
        self,
        ledger: Ledger,
        feeder: Feeder,
        lease: Lease,
        lead: Callable[[JobId], Leader],
        settings: DispatchSettings,
    ) -> None:
        """`lead` makes the leader of one job."""
        self._ledger = ledger
        self._feeder = feeder
        self._lease = lease
        self._lead = lead
        self._settings = settings
        self._leaders: dict[JobId, Leader] = {}
        self._troubles: dict[JobId, str] = {}
        self._turns = 0
        self._cleaned = -CLEANING
        self.leads = False
        """Whether the last turn was ours."""

    def turn(self) -> bool:
        """Do once what there is to do for every job; returns whether more could follow at once."""
        led, self.leads = self.leads, bool(self._lease.take())
        if self.leads != led:
            log.info("leads" if self.leads else "stands by")
        if not self.leads:
            self._leave_all()
            return False
        self._clean()
        jobs = self._ledger.running_ids()
        self._leave_all(but=jobs)
        return self._feed(jobs)

    def leave(self) -> None:
        """Let another dispatcher lead at once."""
        self._leave_all()
        self._lease.free()

    def _feed(self, jobs: Sequence[JobId]) -> bool:
        """Feed first what people wait for, then as many images of sweeps as they would wait for."""
        sweeps = [job for job in jobs if self._is_sweep(job)]
        submitted = [job for job in jobs if job not in sweeps]
        self._turns += 1
        more = self._share(submitted, self._feeder.room)
        return self._share(sweeps, self._room_for_sweeps) or more

    def _share(self, jobs: Sequence[JobId], room: Callable[[], int]) -> bool:
        """Give each of `jobs` its share of the room, beginning with another one each time."""
        if not jobs:
            return False
        first = self._turns % len(jobs)
        share = -(-room() // len(jobs))
        more = False
        for job in [*jobs[first:], *jobs[:first]]:
            more |= self._turn_of(job, min(share, room()))
        return more

    def _room_for_sweeps(self) -> int:
        return max(0, self._settings.sweep_messages - self._feeder.depth())

    def _is_sweep(self, job: JobId) -> bool:
        try:
            return bool(self._ledger.job(job).sweep)
        except (LedgerDamaged, UsageError):
            return False  # its turn tells of it

    def _turn_of(self, job: JobId, room: int) -> bool:
        """One turn of a job's leader; a job in trouble is told once and keeps nobody from work."""
        leader = self._leaders.get(job) or self._leaders.setdefault(job, self._lead(job))
        try:
            return leader.turn(room)
        except (LedgerDamaged, UsageError) as error:
            if self._troubles.get(job) != str(error):
                self._troubles[job] = str(error)
                log.warning("job cannot be fed", extra={"fields": {"job": job, "error": error}})
            return False

    def _leave_all(self, but: Collection[JobId] = ()) -> None:
        for job in [job for job in self._leaders if job not in but]:
            self._leaders.pop(job).leave()

    def _clean(self) -> None:
        if time.monotonic() - self._cleaned >= CLEANING:
            self._cleaned = time.monotonic()
            for job in forget_old(self._ledger, self._settings.keep_days):
                log.info("job forgotten", extra={"fields": {"job": job}})


def forget_old(ledger: Ledger, keep_days: float) -> list[JobId]:
    """Forget the jobs that have been closed for longer than `keep_days`; returns them."""
    old = ledger.closed_before(time.time() - keep_days * DAY)
    for job in old:
        ledger.forget(job)
    return old
