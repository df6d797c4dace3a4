"""The seals of a job: which object each of its cutouts was when its worker had written it.

A later job that finds another object in that place knows that it is not what this job made. Eight
bytes an image, in one string in Redis.

The ledger: what each job was asked for, and how each of its images ended.

Per image it keeps the packed manifest and three bits; hashes hold only what is in flight, what was
claimed more than once and what failed. An image is claimed before any work and settled once, after
its cutout exists.

How the single images of a job stand.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, takewhile
from typing import TYPE_CHECKING, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.jobs import scripts
from bgpipe.pipeline.jobs.records import (
    read_failure,
    read_flags,
    summarize,
    write_error,
    write_flags,
)
from bgpipe.pipeline.jobs.store import Docket, JobConflict, JobNotFound, LeaseLost, job_not_found
from bgpipe.pipeline.types import (
    Failure,
    Item,
    Job,
    JobId,
    JobState,
    JobSummary,
    Outcome,
    ReviewFlag,
)

if TYPE_CHECKING:
    # MOVED
    from bgpipe.pipeline.types import Failure, Item, JobId, ReviewFlag

SIZE = 8
"""Bytes: chance makes two seals equal once in 10^19."""


class Fingerprints:
    """The seals of all jobs. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def write(self, job: JobId, index: int, identity: str) -> None:
        """Note the identity of the cutout that item `index` of `job` has become."""
        self._client.setrange(keys.of_job(job).seals, index * SIZE, fingerprint(identity))

    def read(self, job: JobId, start: int, stop: int) -> list[bytes]:
        """Those of the items from `start` to before `stop`; no cutout's where none was left."""
        if not job:
            return [b""] * (stop - start)
        name = keys.of_job(job).seals
        data = cast("bytes", self._client.getrange(name, start * SIZE, stop * SIZE - 1))
        return [data[place * SIZE : (place + 1) * SIZE] for place in range(stop - start)]


def fingerprint(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()[:SIZE]


__all__ = ["Claim", "ClaimOwner", "JobConflict", "JobNotFound", "LeaseLost", "Ledger"]

CHUNK = 8192
"""Bytes of a bitmap read at once: 65,536 images."""
PAGE = 500
"""Failures read at once."""
DETAIL = 1000
"""Characters of an error's detail that are kept."""
JOBS_KEPT = 32
"""Records of jobs kept by those who claim; they meet few at a time."""
OPEN = (JobState.LISTING, JobState.RUNNING)
RETRY = b"!"
"""The mark of a claim on an item that was in flight already."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on an item of `job`. `attempt` counts from 1.

    `suspect`: it was in flight already, and neither settled nor released since. Its worker died, or
    the message was delivered again while that worker goes on.
    """

    attempt: int
    item: Item
    redelivered: bool
    job: Job


@dataclass(frozen=True, slots=True)
class ClaimOwner:
    """`worker` has claimed the item; `suspect`: it was in flight already when it did."""

    worker: str
    redelivered: bool


class Ledger(Docket):
    """The books of all jobs in one Redis. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        super().__init__(client)
        self.seals = Fingerprints(client)
        self._jobs: dict[tuple[JobId, str], Job] = {}
        self._claim = client.register_script(scripts.CLAIM)
        self._give_back = client.register_script(scripts.GIVE_BACK)
        self._settle = client.register_script(scripts.SETTLE)
        self._books = client.register_script(scripts.SUMMARY)

    def item(self, job: JobId, index: int) -> Item:
        """The item at `index`.

        Raises:
            UsageError: there is none.

        """
        if not 0 <= index < self.size(job):
            raise _no_item(job, index)
        return self._manifests.pick(job, [index])[0]

    def items(self, job: JobId, start: int, stop: int) -> Iterator[Item]:
        """The items from `start` to before `stop`, as many as there are."""
        return self._manifests.items(job, start, stop)

    def pick(self, job: JobId, indices: Iterable[int]) -> list[Item]:
        """The items at `indices`, which the manifest has; quick if they are in order."""
        return self._manifests.pick(job, indices)

    def claim(self, job: JobId, index: int, worker: str) -> Claim | None:
        """Count an attempt and note that `worker` makes it, before any work is done.

        Returns None if the item is settled or the job does not run: there is nothing to do.

        Raises:
            UsageError: there is no such job or item.

        """
        names = keys.of_job(job)
        answer = self._claim(
            keys=[
                names.head,
                names.done,
                names.failed,
                names.claimed,
                names.running,
                names.repeats,
            ],
            # The unique end tells a claim that was sent twice from two claims.
            args=[index, f"{worker} {uuid.uuid4().hex}"],
        )
        if not isinstance(answer, list):
            _found(answer, job, index)
            return None
        attempt, mark, created = answer
        edition = created.decode()
        item = self._manifests.item(job, edition, index)
        return Claim(attempt, item, mark == RETRY, self._edition(job, edition))

    def settle(self, job: JobId, outcome: Outcome) -> bool:
        """Record how an item ended; the last one finishes the job.

        Returns whether it did so: False if the item was settled before, which changes nothing.

        Raises:
            UsageError: there is no such job or item.

        """
        names = keys.of_job(job)
        failed = outcome.code
        error = [failed, write_error(failed, outcome.detail[:DETAIL])] if failed else ["", ""]
        flags = [str(write_flags(outcome.flags)), *outcome.flags] if outcome.flags else []
        settled = self._settle(
            keys=[
                names.head,
                names.done,
                names.failed,
                names.running,
                names.errors,
                names.flags,
                keys.TOTALS,
            ],
            args=[outcome.index, *error, *flags],
        )
        return _found(settled, job, outcome.index) != scripts.REFUSED

    def owner(self, job: JobId, index: int) -> ClaimOwner | None:
        """Whoever claimed the item last, unless it has been settled or released since."""
        claim = self._client.hget(keys.of_job(job).running, str(index))
        return _holder(claim) if isinstance(claim, bytes) else None

    def release(self, job: JobId, index: int) -> None:
        """Say that nobody works on the item for now: its attempt failed, it will be tried again."""
        self._client.hdel(keys.of_job(job).running, str(index))

    def give_back(self, job: JobId, index: int) -> None:
        """Undo a claim that comes to nothing through no fault of the item: the attempt is not counted."""
        names = keys.of_job(job)
        answer = self._give_back(
            keys=[names.head, names.claimed, names.running, names.repeats], args=[index]
        )
        _found(answer, job, index)

    def claims(self, job: JobId) -> dict[int, str]:
        """The items in flight and the worker that claimed each last."""
        running = cast("dict[bytes, bytes]", self._client.hgetall(keys.of_job(job).running))
        return {int(index): _holder(claim).worker for index, claim in running.items()}

    def missing(self, job: JobId, start: int = 0) -> Iterator[int]:
        """The indices of the items from `start` on that are not settled, in order."""
        names, size = keys.of_job(job), self.size(job)
        for first, ended in self._bits((names.done, names.failed), start, size):
            for index in _places(ended, first, wanted=False):
                if start <= index < size:
                    yield index

    def size(self, job: JobId) -> int:
        """How many items the manifest has so far."""
        return self._number(job, "size")

    def cursor(self, job: JobId) -> int:
        """How many items, from the first one on, were published."""
        return self._number(job, "cursor")

    def summary(self, job: JobId) -> JobSummary:
        """The accounts as they are now."""
        names = keys.of_job(job)
        leases = (keys.lease_of_job(job), keys.DISPATCH, keys.ATTEND)
        flat, running, now, led = self._books(
            keys=[names.head, names.running, *map(keys.of_lease, leases)]
        )
        head = dict(zip(*[(text.decode() for text in flat)] * 2, strict=True))
        if not head:
            raise job_not_found(job)
        interrupted = not led and self._is_left(head)
        return summarize(job, head, running, float(now), interrupted=interrupted)

    def failures(self, job: JobId, start: int = 0, stop: int | None = None) -> Iterator[Failure]:
        """The images given up, in the order of the manifest; the first ones come at once.

        Only those from `start` to before `stop`, if there is one.
        """
        failed = self._failed(job, start, self.size(job) if stop is None else stop)
        while page := list(islice(failed, PAGE)):
            names, fields = keys.of_job(job), [str(index) for index in page]
            errors = cast("list[bytes | None]", self._client.hmget(names.errors, fields))
            repeats = self._client.hmget(names.repeats, fields)
            items = self._manifests.pick(job, page)
            for item, error, repeated in zip(items, errors, repeats, strict=True):
                yield read_failure(job, item, error, int(repeated or 0))

    def flags(self, job: JobId) -> dict[int, tuple[ReviewFlag, ...]]:
        """The flags of the cutouts that have any, in the order of the manifest."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(keys.of_job(job).flags))
        bits = {int(index): int(value) for index, value in found.items()}
        return {index: read_flags(bits[index]) for index in sorted(bits)}

    def flags_of(self, job: JobId, indices: Sequence[int]) -> list[tuple[ReviewFlag, ...]]:
        """The flags of the cutouts at `indices`, one for one."""
        if not indices:
            return []
        found = self._client.hmget(keys.of_job(job).flags, [str(index) for index in indices])
        return [read_flags(int(bits or 0)) for bits in found]

    def _is_left(self, head: Mapping[str, str]) -> bool:
        """Whether a job without a leader stands still; published whole, it needs only workers."""
        if head.get("state") not in OPEN:
            return False
        published = head["state"] == JobState.RUNNING and head.get("cursor") == head.get("size")
        return not (published and any(self._client.scan_iter(keys.of_worker("*"), count=1000)))

    def _failed(self, job: JobId, start: int, stop: int) -> Iterator[int]:
        for first, bits in self._bits((keys.of_job(job).failed,), start, stop):
            for index in _places(bits, first, wanted=True):
                if start <= index < stop:
                    yield index

    def _bits(self, bitmaps: Sequence[str], start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        """The union of `bitmaps` in chunks, each with the index of its first bit.

        The first one holds the bit `start`, the last one the bit before `stop`.
        """
        end = -(-stop // 8)
        for first in range(start // 8, end, CHUNK):
            length = min(CHUNK, end - first)
            parts = (self._client.getrange(name, first, first + length - 1) for name in bitmaps)
            yield 8 * first, _union(cast("Iterator[bytes]", parts), length)

    def _edition(self, job: JobId, edition: str) -> Job:
        """The record of `job`, read once; `edition` tells jobs apart that had one name."""
        order = self._jobs.get((job, edition))
        if order is None:
            if len(self._jobs) >= JOBS_KEPT:
                self._jobs.clear()
            order = self._jobs[job, edition] = self.job(job)
        return order

    def _number(self, job: JobId, field: str) -> int:
        value = self._client.hget(keys.of_job(job).head, field)
        if value is None:
            raise job_not_found(job)
        return int(value)


def _holder(claim: bytes) -> ClaimOwner:
    """Of a claim as it is kept: a mark, the worker's name, and what makes it unique."""
    return ClaimOwner(claim[1:].decode().rpartition(" ")[0], redelivered=claim[:1] == RETRY)


def _found(answer: int, job: JobId, index: int) -> int:
    """A script's answer, unless it is that there is no such thing."""
    if answer == scripts.UNKNOWN_JOB:
        raise job_not_found(job)
    if answer == scripts.NO_SUCH_ITEM:
        raise _no_item(job, index)
    return answer


def _no_item(job: JobId, index: int) -> UsageError:
    return UsageError(f"job {job} has no item: {index}")


def _union(bitmaps: Iterable[bytes], length: int) -> bytes:
    """`length` bytes with every bit that is set in one of `bitmaps`; what they lack is not set."""
    total = 0
    for bits in bitmaps:
        total |= int.from_bytes(bits.ljust(length, b"\0"))
    return total.to_bytes(length)


def _places(bits: bytes, first: int, *, wanted: bool) -> Iterator[int]:
    """The indices of the bits that are set, or of those that are not; `first` is that of the first."""
    others = 0x00 if wanted else 0xFF
    for number, byte in enumerate(bits):
        if byte != others:
            for place in range(8):
                if bool(byte & 0x80 >> place) is wanted:
                    yield first + 8 * number + place


class ItemState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ItemView:
    item: Item
    state: ItemState
    failure: Failure | None = None
    flags: tuple[ReviewFlag, ...] = ()


def read_items(job_store: Ledger, job: JobId, start: int, stop: int) -> list[ItemView]:
    """Those of the items from `start` to before `stop`, as many as there are."""
    items = list(job_store.items(job, start, min(stop, job_store.size(job))))
    # What is open is read first: an image that ends meanwhile is then seen as open, or as it ended.
    running = job_store.claims(job)
    unsettled = set(takewhile(lambda index: index < stop, job_store.missing(job, start)))
    failures = {
        failure.index: failure for failure in job_store.failures(job, start, start + len(items))
    }
    flags = job_store.flags_of(job, [item.index for item in items])

    def state(index: int) -> ItemState:
        if index in failures:
            return ItemState.FAILED
        if index not in unsettled:
            return ItemState.DONE
        return ItemState.RUNNING if index in running else ItemState.QUEUED

    return [
        ItemView(item, state(item.index), failures.get(item.index), flags=found)
        for item, found in zip(items, flags, strict=True)
    ]
