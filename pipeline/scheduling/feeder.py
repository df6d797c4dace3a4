"""Publish the messages of a job below a high-water mark, and republish those that Redis lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


class Feeder:
    """Moves items from the job store to the queue. A crash in between publishes a batch twice."""

    def __init__(
        self, jobs: JobStore, app: Celery, client: RedisClient, settings: QueueSettings
    ) -> None:
        self._jobs = jobs
        self._app = app
        self._client = client
        self._settings = settings

    def depth(self) -> int:
        """Return the number of messages of all jobs that are published and not acknowledged."""
        return read_depth(self._client, self._settings.name)

    def capacity(self) -> int:
        """Return the number of messages below the high-water mark."""
        return max(0, self._settings.high_water - self.depth())

    def publish_next(self, job_id: JobId, capacity: int, token: int) -> bool:
        """Publish at most `capacity` unsettled items after the cursor; returns whether all are.

        Raises:
            LeaseLost: another process leads the job with a newer token.

        """
        cursor, size = self._jobs.lead(job_id, token), self._jobs.items.size(job_id)
        if cursor == size:
            return True
        missing = self._jobs.items.missing(job_id, cursor)
        published = 0
        for batch in _batches(islice(missing, capacity)):
            self._publish(job_id, batch)
            self._jobs.set_cursor(job_id, batch[-1] + 1, token)
            published += len(batch)
        if published == capacity:
            return False
        self._jobs.set_cursor(job_id, size, token)
        return True

    def republish_lost(self, job_id: JobId, *, claimed: bool = False) -> int:
        """Republish unsettled items before the cursor that are in no queue; returns their number.

        Items claimed by a live worker are left to it, unless `claimed`. The high-water mark holds.
        """
        elsewhere = waiting_messages(self._client, self._settings.name, job_id)
        if not claimed:
            elsewhere |= self._claimed(job_id)
        cursor = self._jobs.cursor(job_id)
        published = takewhile(lambda index: index < cursor, self._jobs.items.missing(job_id))
        lost = (index for index in published if index not in elsewhere)
        count = 0
        for batch in _batches(islice(lost, self.capacity())):
            self._publish(job_id, batch)
            count += len(batch)
        return count

    def _publish(self, job_id: JobId, indices: Iterable[int]) -> None:
        items = self._jobs.items.pick(job_id, indices)
        publish(self._app, job_id, items, self._settings.name, self._client.notify)

    def _claimed(self, job_id: JobId) -> set[int]:
        """Return the items that workers with a heartbeat have claimed."""
        claims = self._jobs.items.claims(job_id)
        alive = {
            worker for worker in set(claims.values()) if self._client.exists(keys.of_worker(worker))
        }
        return {index for index, worker in claims.items() if worker in alive}


def _batches(indices: Iterator[int]) -> Iterator[list[int]]:
    while batch := list(islice(indices, BATCH)):
        yield batch
