"""Who has an image: each one is with one lane at a time, and a suspect is alone with it.

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
from threading import Lock

from bgpipe.pipeline.errors import BgpipeError
from bgpipe.pipeline.ledger import Claim, Holder, Ledger
from bgpipe.pipeline.types import JobId
from bgpipe.workers.gate import Gate


class Elsewhere(BgpipeError):
    """Somebody who lives works on the image already."""


@dataclass(frozen=True, slots=True)
class Hold:
    """An image in this lane.

    `alone`: with no other one in this worker. `killer`: so it was before, in a worker that died.
    """

    claim: Claim
    alone: bool = False
    killer: bool = False


class Custody:
    """What the lanes of one worker have in hand. `is_alive` tells of other workers by their names."""

    def __init__(self, ledger: Ledger, worker: str, is_alive: Callable[[str], bool]) -> None:
        self._ledger = ledger
        self._worker = worker
        self._is_alive = is_alive
        self._gate = Gate()
        self._lock = Lock()
        self._in_hand: dict[tuple[JobId, int], float] = {}

    @contextmanager
    def take(self, job: JobId, index: int) -> Iterator[Hold | None]:
        """Have the image, or None where there is nothing to do any more.

        Raises:
            Elsewhere: another lane has it, here or in a worker that lives.
            UsageError: the ledger knows no such job or item.

        """
        with self._reserved(job, index):
            with self._gate.beside():
                if self._orphan(job, index) is None:
                    claim = self._ledger.claim(job, index, self._worker)
                    yield Hold(claim) if claim else None
                    return
            with self._gate.alone():
                orphan = self._orphan(job, index)
                claim = self._ledger.claim(job, index, self._worker)
                killer = orphan is not None and orphan.suspect
                yield Hold(claim, alone=True, killer=killer) if claim else None

    def ages(self) -> list[float]:
        """Seconds for which each image has been in hand, at the gate or behind it."""
        now = time.monotonic()
        with self._lock:
            return [now - since for since in self._in_hand.values()]

    @contextmanager
    def _reserved(self, job: JobId, index: int) -> Iterator[None]:
        with self._lock:
            if (job, index) in self._in_hand:
                raise Elsewhere("another lane of this worker has the image")
            self._in_hand[job, index] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._in_hand[job, index]

    def _orphan(self, job: JobId, index: int) -> Holder | None:
        """Whoever had the image and died of it, or beside it."""
        holder = self._ledger.holder(job, index)
        if holder is None or holder.worker == self._worker:
            return None  # one of our own claims, whose end the ledger was not there for
        if self._is_alive(holder.worker):
            raise Elsewhere(f"another worker has the image: {holder.worker}")
        return holder
