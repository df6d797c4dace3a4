"""Which items this worker works on: one lane per item, and a suspect without any other beside it.

A message may arrive twice: it stayed unacknowledged for too long, or its worker died. The heartbeat
of the claim's owner tells the two apart. While it lives, the item is left to it. If it is dead, the
item may have killed it, or was only in flight beside the one that did. Such an item runs alone: if
this worker dies then, the item is at fault. Its attempt is counted once it is alone, so that waiting
beside another killer costs it nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Lock

from bgpipe.pipeline.errors import BgpipeError, RedisUnavailable, UsageError
from bgpipe.pipeline.jobs.items import Claim, ClaimOwner, ItemStore
from bgpipe.pipeline.types import JobId
from bgpipe.workers.budget import Budget

LANES = 2**31
"""More than any worker has: a claim of all of them runs alone."""


class ClaimedElsewhere(BgpipeError):
    """A live worker or another lane works on the item already."""


class ClaimManager:
    """The claims of one worker's lanes. `is_alive` takes the name that another worker claims under."""

    def __init__(self, items: ItemStore, worker: str, is_alive: Callable[[str], bool]) -> None:
        self.items = items
        self._worker = worker
        self._is_alive = is_alive
        self._lanes = Budget(LANES)
        self._lock = Lock()
        self._abandoned: set[tuple[JobId, int]] = set()
        self._since: dict[tuple[JobId, int], float] = {}

    @contextmanager
    def claim(self, job: JobId, index: int, source: str) -> Iterator[Claim | None]:
        """Hold the item, whose key is `source`; None if it is settled or its job does not run.

        A claim with a `predecessor` is the only one of this worker until the block ends.

        Raises ClaimedElsewhere if another lane or a live worker holds it, UsageError if the job has no
        such item, or one with another key.
        """
        with self._reserved(job, index):
            with self._lanes.claim(1):
                if self._dead_owner(job, index) is None:
                    yield self._claim(job, index, source)
                    return
            with self._lanes.claim(LANES):
                owner = self._dead_owner(job, index)
                claim = self._claim(job, index, source)
                yield claim and replace(claim, predecessor=owner)

    def ages(self) -> list[float]:
        """Return the seconds for which each item has been held or has waited to be alone."""
        now = time.monotonic()
        with self._lock:
            return [now - since for since in self._since.values()]

    def end_abandoned(self) -> None:
        """End the claims that items left behind as Redis was away: this worker has them no more.

        As long as it lives, no other worker would take them.
        """
        while self._abandoned:
            job, index = self._abandoned.pop()
            with suppress(ClaimedElsewhere), self._reserved(job, index):
                self.items.end_claim(job, index, self._worker)

    @contextmanager
    def _reserved(self, job: JobId, index: int) -> Iterator[None]:
        with self._lock:
            if (job, index) in self._since:
                raise ClaimedElsewhere("another lane of this worker has the image")
            self._since[job, index] = time.monotonic()
        try:
            yield
        except RedisUnavailable:
            self._abandoned.add((job, index))
            raise
        finally:
            with self._lock:
                del self._since[job, index]

    def _claim(self, job: JobId, index: int, source: str) -> Claim | None:
        claim = self.items.claim(job, index, self._worker)
        if claim and claim.item.source != source:
            self.items.give_back(claim)
            raise UsageError(f"image {index} of job {job} is another one: {claim.item.source}")
        return claim

    def _dead_owner(self, job: JobId, index: int) -> ClaimOwner | None:
        """Return the owner that died with the item in flight, if any."""
        owner = self.items.owner(job, index)
        if owner is None or owner.worker == self._worker:
            return None  # our own claim, whose end did not reach the job store
        if self._is_alive(owner.worker):
            raise ClaimedElsewhere(f"another worker has the image: {owner.worker}")
        return owner
