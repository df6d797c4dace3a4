"""The gate in front of a worker's lanes: images pass side by side, a suspect passes alone.

An image may take its whole process with it. One that was in flight when a worker died is let in
only once the worker is empty, and nobody follows it until it is through: whatever dies then, it
alone is to blame.

Who has an image: each one is with one lane at a time, and a suspect is alone with it.

A message may come twice: it stayed unacknowledged for too long, or its worker died. The heartbeat
of whoever claimed the image tells the two apart. While it lives, the image is in good hands. If it
is dead, the image may have killed it, or only been beside the one that did: it is a suspect, and
passes the gate alone. Its attempt is counted behind the gate, not in front: a suspect that waits
there while another one kills the worker is not charged for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Lock

from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.jobs.items import Claim, ClaimOwner
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import JobId


class IsolationLock:
    """Any number of threads may pass. Who waits to be alone goes before all who come later."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._suspects = 0
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside, with others."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._closed or self._suspects))
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be inside, with nobody else."""
        with self._changed:
            self._suspects += 1
            self._changed.wait_for(lambda: not (self._closed or self._inside))
            self._suspects -= 1
            self._closed = True
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class ClaimedElsewhere(BgpipeError):
    """Somebody who lives works on the image already."""


@dataclass(frozen=True, slots=True)
class ActiveClaim:
    """An image in this lane.

    `alone`: with no other one in this worker. `killer`: so it was before, in a worker that died.
    """

    claim: Claim
    alone: bool = False
    crashed_alone: bool = False


class ClaimManager:
    """What the lanes of one worker have in hand. `is_alive` tells of other workers by their names."""

    def __init__(self, job_store: JobStore, worker: str, is_alive: Callable[[str], bool]) -> None:
        self._job_store = job_store
        self._worker = worker
        self._is_alive = is_alive
        self._gate = IsolationLock()
        self._lock = Lock()
        self._in_hand: dict[tuple[JobId, int], float] = {}

    @contextmanager
    def claim(self, job: JobId, index: int) -> Iterator[ActiveClaim | None]:
        """Have the image, or None where there is nothing to do any more.

        Raises:
            Elsewhere: another lane has it, here or in a worker that lives.
            UsageError: the ledger knows no such job or item.

        """
        with self._reserved(job, index):
            with self._gate.shared():
                if self._orphan(job, index) is None:
                    claim = self._job_store.items.claim(job, index, self._worker)
                    yield ActiveClaim(claim) if claim else None
                    return
            with self._gate.exclusive():
                orphan = self._orphan(job, index)
                claim = self._job_store.items.claim(job, index, self._worker)
                killer = orphan is not None and orphan.redelivered
                yield ActiveClaim(claim, alone=True, crashed_alone=killer) if claim else None

    def ages(self) -> list[float]:
        """Seconds for which each image has been in hand, at the gate or behind it."""
        now = time.monotonic()
        with self._lock:
            return [now - since for since in self._in_hand.values()]

    @contextmanager
    def _reserved(self, job: JobId, index: int) -> Iterator[None]:
        with self._lock:
            if (job, index) in self._in_hand:
                raise ClaimedElsewhere("another lane of this worker has the image")
            self._in_hand[job, index] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._in_hand[job, index]

    def _orphan(self, job: JobId, index: int) -> ClaimOwner | None:
        """Whoever had the image and died of it, or beside it."""
        holder = self._job_store.items.owner(job, index)
        if holder is None or holder.worker == self._worker:
            return None  # one of our own claims, whose end the ledger was not there for
        if self._is_alive(holder.worker):
            raise ClaimedElsewhere(f"another worker has the image: {holder.worker}")
        return holder
