"""Feeds a job to the queue, below a high-water mark, and sends again what Redis lost."""

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
"""Messages sent between two marks of the cursor."""


class Feeder:
    """Moves jobs from the ledger to the queue. A crash between the two sends a batch twice."""

    def __init__(
        self, job_store: JobStore, app: Celery, client: RedisClient, settings: QueueSettings
    ) -> None:
        self._job_store = job_store
        self._app = app
        self._client = client
        self._settings = settings

    def depth(self) -> int:
        """How many messages of all jobs are published and not acknowledged."""
        return read_depth(self._client, self._settings.name)

    def capacity(self) -> int:
        """How many more may be published before the high-water mark is reached."""
        return max(0, self._settings.high_water - self.depth())

    def publish_next(self, job: JobId, room: int, token: int) -> bool:
        """Publish from the cursor on what is not settled, at most `room` messages.

        Returns whether all is published.

        Raises:
            Superseded: somebody leads the job with a newer token than `token`.

        """
        cursor, size = self._job_store.lead(job, token), self._job_store.items.size(job)
        if cursor == size:
            return True
        missing = self._job_store.items.missing(job, cursor)
        published = 0
        for batch in _batches(islice(missing, room)):
            self._publish(job, batch)
            self._job_store.set_cursor(job, batch[-1] + 1, token)
            published += len(batch)
        if published == room:
            return False
        self._job_store.set_cursor(job, size, token)
        return True

    def republish_lost(self, job: JobId, *, claimed: bool = False) -> int:
        """Publish again what is not settled although it was published, and is in no queue.

        What a worker that lives has claimed is left to it, unless `claimed`. Returns how many were
        published; the high-water mark holds here too.
        """
        elsewhere = waiting_messages(self._client, self._settings.name, job)
        if not claimed:
            elsewhere |= self._held(job)
        cursor = self._job_store.cursor(job)
        published = takewhile(lambda index: index < cursor, self._job_store.items.missing(job))
        lost = (index for index in published if index not in elsewhere)
        count = 0
        for batch in _batches(islice(lost, self.capacity())):
            self._publish(job, batch)
            count += len(batch)
        return count

    def _publish(self, job: JobId, indices: Iterable[int]) -> None:
        items = self._job_store.items.pick(job, indices)
        publish(self._app, job, items, self._settings.name, self._client.notify)

    def _held(self, job: JobId) -> set[int]:
        """The items that workers with a heartbeat have claimed."""
        claims = self._job_store.items.claims(job)
        alive = {
            worker for worker in set(claims.values()) if self._client.exists(keys.of_worker(worker))
        }
        return {index for index, worker in claims.items() if worker in alive}


def _batches(indices: Iterator[int]) -> Iterator[list[int]]:
    while batch := list(islice(indices, BATCH)):
        yield batch
