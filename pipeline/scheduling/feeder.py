"""Publish the messages of a job below a high-water mark, and republish those that Redis lost."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from celery import Celery

from bgpipe.config.settings import QueueSettings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.queue import publish, read_depth, waiting_messages
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId

BATCH = 1000
"""Messages published between two writes of the cursor."""


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


def _batches(indices: Iterator[int]) -> Iterator[list[int]]:
    while batch := list(islice(indices, BATCH)):
        yield batch
