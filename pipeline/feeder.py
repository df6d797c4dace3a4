"""Feeds a job to the queue, below a high-water mark, and sends again what Redis lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from celery import Celery

from bgpipe.config.settings import QueueSettings
from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.queue import depth, publish
from bgpipe.pipeline.types import Books, Item, JobId, JobState

POLL = 0.5
"""Seconds between two looks at the books."""
QUIET_POLLS = 2
"""Polls in a row that see no message before any counts as lost: while a worker receives one, it is
in no place that can be seen."""
BATCH = 1000
"""Messages sent between two marks of the cursor."""

CLOSED = (JobState.FINISHED, JobState.CANCELLED)


class Feeder:
    """Moves jobs from the ledger to the queue. A crash between the two sends a batch twice."""

    def __init__(
        self, ledger: Ledger, app: Celery, client: Connection, settings: QueueSettings
    ) -> None:
        self._ledger = ledger
        self._app = app
        self._client = client
        self._settings = settings

    def run(self, job: JobId, on_books: Callable[[Books], None], poll: float = POLL) -> Books:
        """Feed `job` until its books are closed, and return them.

        `on_books` gets the accounts at every poll; what it raises ends the feeding.

        Raises:
            RedisUnavailable: the server stays away. The job can be taken up again later.

        """
        quiet = 0
        while True:
            fed = self.step(job)
            books = self._ledger.books(job)
            on_books(books)
            if books.state in CLOSED:
                return books
            quiet = 0 if not fed or depth(self._client, self._settings.name) else quiet + 1
            if quiet >= QUIET_POLLS and quiet * poll >= self._holding_time(job):
                self.reconcile(job)
                quiet = 0
            time.sleep(poll)

    def feed(self, job: JobId, poll: float = POLL) -> None:
        """Publish all of `job`, waiting wherever the high-water mark is reached."""
        while not self.step(job):
            time.sleep(poll)

    def step(self, job: JobId) -> bool:
        """Publish from the cursor up to the high-water mark; returns whether all is published."""
        cursor, size = self._ledger.cursor(job), self._ledger.size(job)
        room = self._settings.high_water - depth(self._client, self._settings.name)
        stop = min(size, cursor + max(room, 0))
        for start in range(cursor, stop, BATCH):
            end = min(start + BATCH, stop)
            self._publish(job, list(self._ledger.items(job, start, end)))
            self._ledger.advance(job, end)
        return stop >= size

    def reconcile(self, job: JobId) -> int:
        """Publish what is not settled again, up to the high-water mark; returns how many."""
        missing = islice(self._ledger.missing(job), self._settings.high_water)
        count = 0
        for batch in _batches(missing):
            self._publish(job, [self._ledger.item(job, index) for index in batch])
            count += len(batch)
        return count

    def _publish(self, job: JobId, items: Sequence[Item]) -> None:
        publish(self._app, job, items, self._settings.name)

    def _holding_time(self, job: JobId) -> float:
        """Seconds for which a worker may go on with an image whose message is gone.

        None unless a worker that lives has claimed one: then as long as it may hold any.
        """
        heartbeats = {keys.of_worker(worker) for worker in self._ledger.claims(job).values()}
        alive = bool(heartbeats) and bool(self._client.exists(*heartbeats))
        return float(self._settings.visibility_timeout) if alive else 0.0


def _batches(indices: Iterator[int]) -> Iterator[list[int]]:
    while batch := list(islice(indices, BATCH)):
        yield batch
