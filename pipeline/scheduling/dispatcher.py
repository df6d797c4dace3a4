"""Lead jobs: publish messages below a high-water mark, republish lost ones, forget old jobs."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile

from celery import Celery

from bgpipe.config.settings import QueueSettings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.broker.queue import make_app, publish, read_depth, waiting_messages
from bgpipe.pipeline.errors import RedisUnavailable, StoreCorrupted, UsageError
from bgpipe.pipeline.jobs.store import JobStore, LeaseLost
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import DAY_SECONDS, JobId, JobSummary

BATCH = 1000
"""Messages published between two writes of the cursor."""
IDLE_STEPS = 2
"""Consecutive steps with an empty queue before messages count as lost: a message that a worker is
just receiving is in no visible place."""
PROBE_INTERVAL = 30.0
"""Maximum seconds between two probes of a paused job."""
CLEANING_INTERVAL = 600.0
"""Seconds between two removals of what has expired."""
INDEX_INTERVAL = 30.0
"""Seconds after which a job that an older version of bgpipe started is found."""

log = EventLogger(__name__)


@dataclass(frozen=True, slots=True)
class Feeder:
    """Moves items from the job store to the queue. A crash in between publishes a batch twice."""

    jobs: JobStore
    app: Celery
    client: RedisClient
    settings: QueueSettings

    def depth(self) -> int:
        """Return the number of messages of all jobs that are published and not acknowledged."""
        return read_depth(self.client, self.settings.name)

    def capacity(self) -> int:
        """Return the number of messages below the high-water mark."""
        return max(0, self.settings.high_water - self.depth())

    def publish_next(self, job_id: JobId, capacity: int, token: int) -> bool:
        """Publish at most `capacity` unsettled items after the cursor; returns whether all are."""
        cursor, size = self.jobs.lead(job_id, token), self.jobs.items.size(job_id)
        if cursor == size:
            return True
        missing = self.jobs.items.missing(job_id, cursor)
        published = 0
        for batch in _batches(islice(missing, capacity)):
            self._publish(job_id, batch)
            self.jobs.set_cursor(job_id, batch[-1] + 1, token)
            published += len(batch)
        if published == capacity:
            return False
        self.jobs.set_cursor(job_id, size, token)
        return True

    def publish_probe(self, job_id: JobId, token: int) -> None:
        """Publish the first unsettled item of a paused job as its probe."""
        for index in islice(self.jobs.items.missing(job_id), 1):
            self.jobs.set_probe(job_id, index, token)
            self._publish(job_id, [index])

    def republish_lost(self, job_id: JobId, *, claimed: bool = False) -> None:
        """Republish unsettled items before the cursor that are in no queue.

        Items claimed by a live worker are left to it, unless `claimed`. The high-water mark holds.
        """
        elsewhere = waiting_messages(self.client, self.settings.name, job_id)
        if not claimed:
            claims = self.jobs.items.claims(job_id)
            workers = set(claims.values())
            alive = {worker for worker in workers if self.client.exists(keys.of_worker(worker))}
            elsewhere |= {index for index, worker in claims.items() if worker in alive}
        cursor = self.jobs.cursor(job_id)
        published = takewhile(lambda index: index < cursor, self.jobs.items.missing(job_id))
        lost = (index for index in published if index not in elsewhere)
        for batch in _batches(islice(lost, self.capacity())):
            self._publish(job_id, batch)

    def _publish(self, job_id: JobId, indices: Iterable[int]) -> None:
        items = self.jobs.items.pick(job_id, indices)
        publish(self.app, job_id, items, self.settings.name, self.client.notify)


@dataclass(slots=True)
class JobController:
    """Leads one job while this process holds its lease, for a command or a dispatcher."""

    feeder: Feeder
    lease: Lease
    job_id: JobId
    margin: float = 30.0
    """Seconds beyond the visibility timeout until messages count as lost in a busy queue too."""
    is_leader: bool = field(default=False, init=False)
    """Whether the last step held the lease."""
    _idle_steps: int = field(default=0, init=False)
    _settled: int = field(default=-1, init=False)
    _last_progress: float = field(default=0.0, init=False)
    _probes: int = field(default=0, init=False)
    _next_probe: float = field(default=0.0, init=False)

    def step(self, capacity: int) -> bool:
        """Publish at most `capacity` messages, and lost ones; returns whether more could follow."""
        token = self.lease.acquire()
        self.is_leader = bool(token)
        if not token:
            return False
        summary = self.feeder.jobs.summary(self.job_id)
        try:
            if summary.paused:
                self._probe(token)
                return False
            is_fed = self.feeder.publish_next(self.job_id, min(capacity, BATCH), token)
        except LeaseLost:
            self.is_leader = False
            return False
        self._probes = 0
        self._republish_lost(summary, is_fed=is_fed)
        return not is_fed and capacity > BATCH

    def release(self) -> None:
        self.is_leader = False
        self.lease.release()

    def _probe(self, token: int) -> None:
        """Try one image of a paused job, in growing intervals."""
        now = time.monotonic()
        if not self._probes or now >= self._next_probe:
            self.feeder.publish_probe(self.job_id, token)
            self._next_probe = now + min(2.0**self._probes, PROBE_INTERVAL)
            self._probes += 1

    def _republish_lost(self, summary: JobSummary, *, is_fed: bool) -> None:
        settled, now = summary.done + summary.failed, time.monotonic()
        if settled != self._settled:
            self._settled, self._last_progress = settled, now
        self._idle_steps = self._idle_steps + 1 if is_fed and not self.feeder.depth() else 0
        if self._idle_steps >= IDLE_STEPS:
            self._idle_steps = 0
            self.feeder.republish_lost(self.job_id)
        elif now - self._last_progress >= self.feeder.settings.visibility_timeout + self.margin:
            self._last_progress = now
            self.feeder.republish_lost(self.job_id, claimed=True)


@dataclass(slots=True)
class Dispatcher:
    """Leads all running jobs of a cluster while this process holds the dispatchers' lease."""

    session: Session
    feeder: Feeder
    is_leader: bool = field(default=False, init=False)
    """Whether the last step held the lease."""
    _lease: Lease = field(init=False)
    _controllers: dict[JobId, JobController] = field(default_factory=dict, init=False)
    _errors: dict[JobId, str] = field(default_factory=dict, init=False)
    _steps: int = field(default=0, init=False)
    _cleaned: float = field(default=-CLEANING_INTERVAL, init=False)
    _indexed: float = field(default=-INDEX_INTERVAL, init=False)

    def __post_init__(self) -> None:
        self._lease = self.session.lease(keys.DISPATCH)

    def run(self, stopped: threading.Event, after_step: Callable[[], None]) -> None:
        """Step until `stopped` is set, also while Redis is away; calls `after_step` each time.

        Raises whatever `after_step` raises, apart from RedisUnavailable.
        """
        while not stopped.is_set():
            try:
                has_more = self.step()
                after_step()
            except RedisUnavailable as error:
                log.warning("waiting for redis", error=error)
                has_more = False
            if not has_more:
                stopped.wait(self.session.settings.dispatch.poll)
        with suppress(RedisUnavailable):  # the lease expires by itself
            self.release()

    def step(self) -> bool:
        """Advance every job once; returns whether more could follow at once."""
        was_leader, self.is_leader = self.is_leader, bool(self._lease.acquire())
        if self.is_leader != was_leader:
            log.info("leads" if self.is_leader else "stands by")
        if not self.is_leader:
            self._release_all()
            return False
        if time.monotonic() - self._cleaned >= CLEANING_INTERVAL:
            self._cleaned = time.monotonic()
            for job_id in forget_old(self.session):
                log.info("job forgotten", job=job_id)
        if time.monotonic() - self._indexed >= INDEX_INTERVAL:
            self._indexed = time.monotonic()
            self.session.jobs.index_running()
        running = self.session.jobs.running_ids()
        self._release_all(but=running)
        return self._feed(running)

    def release(self) -> None:
        self._release_all()
        self._lease.release()

    def _feed(self, running: Sequence[JobId]) -> bool:
        """Feed submitted jobs first, then the sweeps up to their own limit."""
        sweeps = [job_id for job_id in running if self._is_sweep(job_id)]
        submitted = [job_id for job_id in running if job_id not in sweeps]
        self._steps += 1
        has_more = self._share(submitted, self.feeder.capacity)
        most = self.session.settings.dispatch.sweep_messages
        return self._share(sweeps, lambda: max(0, most - self.feeder.depth())) or has_more

    def _share(self, job_ids: Sequence[JobId], capacity: Callable[[], int]) -> bool:
        """Share the capacity equally, starting with another job each time."""
        if not job_ids:
            return False
        first = self._steps % len(job_ids)
        share = -(-capacity() // len(job_ids))
        has_more = False
        for job_id in [*job_ids[first:], *job_ids[:first]]:
            has_more |= self._step_job(job_id, min(share, capacity()))
        return has_more

    def _is_sweep(self, job_id: JobId) -> bool:
        try:
            return bool(self.session.jobs.job(job_id).sweep)
        except (StoreCorrupted, UsageError):
            return False  # its step logs the error

    def _step_job(self, job_id: JobId, capacity: int) -> bool:
        """Step one job; its errors are logged once and do not affect other jobs."""
        if job_id not in self._controllers:
            lease = self.session.job_lease(job_id)
            self._controllers[job_id] = JobController(self.feeder, lease, job_id)
        try:
            return self._controllers[job_id].step(capacity)
        except (StoreCorrupted, UsageError) as error:
            if self._errors.get(job_id) != str(error):
                self._errors[job_id] = str(error)
                log.warning("job cannot be fed", job=job_id, error=error)
            return False

    def _release_all(self, but: Collection[JobId] = ()) -> None:
        for job_id in [job_id for job_id in self._controllers if job_id not in but]:
            self._controllers.pop(job_id).release()


def make_feeder(session: Session) -> Feeder:
    app = make_app(session.settings, session.redis_url)
    return Feeder(session.jobs, app, session.client, session.settings.queue)


def forget_old(session: Session) -> list[JobId]:
    """Forget the jobs that ended more than `keep_days` of the settings ago; returns them."""
    keep_seconds = session.settings.dispatch.keep_days * DAY_SECONDS
    old = session.jobs.closed_before(time.time() - keep_seconds)
    for job_id in old:
        session.jobs.forget(job_id)
    return old


def _batches(indices: Iterator[int]) -> Iterator[list[int]]:
    while batch := list(islice(indices, BATCH)):
        yield batch
