"""Items of jobs in Redis: claim and settle them, and read how they ended."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, reduce
from itertools import chain, islice, repeat
from operator import or_
from typing import cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.jobs import records, scripts
from bgpipe.pipeline.jobs.manifest import ManifestStore
from bgpipe.pipeline.jobs.scripts import change_job, read_head, run_script
from bgpipe.pipeline.types import Failure, Item, Job, JobId, Outcome, OutputResult, ReviewFlag

FINGERPRINT_BYTES = 8
"""Two objects share a fingerprint with a probability of 10^-19."""
NO_OBJECT = bytes(FINGERPRINT_BYTES)
"""In the place of the fingerprint of an output that was not written."""
MOST_ITEMS = (512 << 20) // FINGERPRINT_BYTES
"""Items of a job at most: a string in Redis, here that of the fingerprints, has up to 512 MB."""
PAGE = 500
"""Failures read at once."""
CHUNK = 8192
"""Bytes of a bitmap read at once: 65,536 items."""
DETAIL = 1000
"""Characters of an error's detail kept at most."""
REFUSALS = 5
"""Refusals in a row, without an item done in between, that pause a job."""
JOBS_CACHED = 32
"""Records of jobs kept by workers, which meet few at a time."""
REDELIVERED = b"!"
"""The mark of a claim on an item that was in flight already."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on an item of `job`. `attempt` counts from 1."""

    id: str
    """The owner's name and a unique end, as stored: another claim of the item is another worker's."""
    attempt: int
    item: Item
    job: Job
    predecessor: ClaimOwner | None = None
    """The owner that died with the item in flight: the item then runs alone in its worker."""


@dataclass(frozen=True, slots=True)
class ClaimOwner:
    """The worker of an item's last claim."""

    worker: str
    redelivered: bool
    """The item was in flight already: its worker had died, or continued beside this one."""


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
    score: float | None = None


class ItemStore:
    """The items of all jobs in one Redis. Threads may share it.

    Every method that gets an index raises UsageError if the job or the item does not exist.
    """

    def __init__(self, client: RedisClient) -> None:
        self.manifests = ManifestStore(client)
        self._client = client
        self._cached_job = lru_cache(JOBS_CACHED)(
            lambda job, _edition: records.read_record(job, read_head(client, job, "job"))
        )

    def size(self, job: JobId) -> int:
        """Return the number of items in the manifest so far; JobNotFound without a job."""
        return int(read_head(self._client, job, "size"))

    def get(self, job: JobId, index: int) -> Item:
        if not 0 <= index < self.size(job):
            raise UsageError(_no_item(job, index))
        return self.pick(job, [index])[0]

    def read(self, job: JobId, start: int, stop: int) -> Iterator[Item]:
        return self.manifests.items(job, start, stop)

    def pick(self, job: JobId, indices: Iterable[int]) -> list[Item]:
        return list(self.manifests.pick(job, indices))

    def claim(self, job: JobId, index: int, worker: str) -> Claim | None:
        """Claim the item before any work, and count the attempt; None if settled or not running."""
        names = keys.of_job(job)
        claim = f"{worker} {uuid.uuid4().hex}"  # unique: one claim sent twice is not two claims
        reply = change_job(
            self._client,
            "claim",
            job,
            [names.head, names.done, names.failed, names.claimed, names.running, names.repeats],
            index,
            claim,
            no_item=_no_item(job, index),
        )
        if reply == scripts.REFUSED:
            return None
        attempt, _mark, edition = reply
        item = self.manifests.cached_item(job, edition, index)
        return Claim(claim, attempt, item, self._cached_job(job, edition))

    def settle(
        self,
        job: JobId,
        outcome: Outcome,
        claim: Claim | None = None,
        identity: str = "",
        outputs: Sequence[OutputResult] = (),
    ) -> bool:
        """Record how an item ended; the last one finishes the job.

        `identity` is the cutout's: a later job knows any other as foreign. A job with `outputs` passes those
        of the item instead, in the job's order. Returns False if the item was settled before. JobNotFound
        if `claim` is on an earlier job of this name.
        """
        names = keys.of_job(job)
        written = [identity] if identity else [each.identity for each in outputs]
        fingerprints = [fingerprint(each) if each else NO_OBJECT for each in written]
        named = [each.name for each in outputs]
        failed = [each.name for each in outputs if each.is_failed]
        code, flags = outcome.code, outcome.flags
        error = json.dumps({"code": code, "detail": outcome.detail[:DETAIL]}) if code else ""
        flagged = [str(records.write_flags(flags)), *flags] if flags else []
        changed = (names.head, names.done, names.failed, names.running, names.errors, names.flags)
        reply = change_job(
            self._client,
            "settle",
            job,
            [*changed, keys.TOTALS, names.fingerprints, names.scores],
            *(outcome.index, claim.job.created if claim else ""),
            *(b"".join(fingerprints), code or "", error),
            *(json.dumps(named), json.dumps(failed)),
            records.write_score(outcome.score),
            *flagged,
            no_item=_no_item(job, outcome.index),
        )
        return bool(reply != scripts.REFUSED)

    def owner(self, job: JobId, index: int) -> ClaimOwner | None:
        """Return the owner of the last claim, or None if it was settled or released since."""
        claim = self._client.hget(keys.of_job(job).running, str(index))
        return _owner(claim) if isinstance(claim, bytes) else None

    def release(self, claim: Claim) -> None:
        """Release the claim after a failed attempt that will be repeated."""
        running = keys.of_job(claim.job.id).running
        run_script(self._client, "release", [running], claim.item.index, claim.id)

    def give_back(self, claim: Claim, refusal: str = "") -> bool:
        """Undo a claim whose attempt must not count, as the item is not at fault.

        `refusal`: what fails for every item; REFUSALS in a row pause the job. Returns whether it is paused.
        """
        names = keys.of_job(claim.job.id)
        changed = [names.head, names.claimed, names.running, names.repeats]
        reasons = (refusal, REFUSALS) if refusal else ()
        reply = run_script(self._client, "give_back", changed, claim.item.index, claim.id, *reasons)
        return bool(reply == scripts.PAUSED)

    def end_claim(self, job: JobId, index: int, worker: str) -> None:
        """End the claim if it is the worker's, which has no lane with the item any more."""
        running = keys.of_job(job).running
        run_script(self._client, "end_claim", [running], index, worker)

    def claims(self, job: JobId) -> dict[int, str]:
        """Return the items in flight and the worker of each one's last claim."""
        running = cast("dict[bytes, bytes]", self._client.hgetall(keys.of_job(job).running))
        return {int(index): _owner(claim).worker for index, claim in running.items()}

    def missing(self, job: JobId, start: int = 0, stop: int | None = None) -> Iterator[int]:
        """Yield the indices of the items from `start` to before `stop` that are not settled, in order."""
        end = self.size(job) if stop is None else min(stop, self.size(job))
        names = keys.of_job(job)
        yield from self._indices((names.done, names.failed), start, end, set_bits=False)

    def failures(self, job: JobId, start: int = 0, stop: int | None = None) -> Iterator[Failure]:
        """Yield the failed items from `start` to before `stop`, in the order of the manifest."""
        end = self.size(job) if stop is None else stop
        names = keys.of_job(job)
        failed = self._indices((names.failed,), start, end, set_bits=True)
        while page := list(islice(failed, PAGE)):
            fields = [str(index) for index in page]
            errors = cast("list[bytes | None]", self._client.hmget(names.errors, fields))
            repeats = self._client.hmget(names.repeats, fields)
            items = self.manifests.pick(job, page)  # block by block: some readers want few
            for item, error, repeated in zip(items, errors, repeats, strict=True):
                yield records.read_failure(job, item, error, int(repeated or 0))

    def flags(self, job: JobId) -> dict[int, tuple[ReviewFlag, ...]]:
        """Return the flags of the cutouts that have any, in the order of the manifest."""
        stored = self._client.hscan_iter(keys.of_job(job).flags, count=PAGE)
        bits = {int(index): int(value) for index, value in stored}
        return {index: records.read_flags(bits[index]) for index in sorted(bits)}

    def scores(self, job: JobId, start: int = 0, stop: int = MOST_ITEMS) -> list[float | None]:
        """Return the scores from `start` to before `stop`; items after the last one with a score are missing."""
        data = cast("bytes", self._client.getrange(keys.of_job(job).scores, start, stop - 1))
        return [records.read_score(byte) for byte in data]

    def views(self, job: JobId, start: int, stop: int) -> list[ItemView]:
        """Return the items from `start` to before `stop` with their states, as far as they exist."""
        items = list(self.read(job, start, min(stop, self.size(job))))
        if not items:
            return []
        # Open items are read first: one that ends meanwhile is then seen as open, or as it ended.
        running = self.claims(job)
        unsettled = set(self.missing(job, start, stop))
        failed = self.failures(job, start, start + len(items))
        failures = {failure.index: failure for failure in failed}
        fields = [str(item.index) for item in items]
        flags = self._client.hmget(keys.of_job(job).flags, fields)
        scores = self.scores(job, start, start + len(items))

        def state(index: int) -> ItemState:
            if index in failures:
                return ItemState.FAILED
            if index not in unsettled:
                return ItemState.DONE
            return ItemState.RUNNING if index in running else ItemState.QUEUED

        return [
            ItemView(
                item,
                state(item.index),
                failures.get(item.index),
                records.read_flags(int(bits or 0)),
                score,
            )
            for item, bits, score in zip(items, flags, chain(scores, repeat(None)), strict=False)
        ]

    def read_fingerprints(self, job: JobId, start: int, stop: int) -> list[bytes]:
        """Return the fingerprints of the items from `start` to before `stop`; one may be empty."""
        if not job:
            return [b""] * (stop - start)
        first, last = start * FINGERPRINT_BYTES, stop * FINGERPRINT_BYTES - 1
        data = cast("bytes", self._client.getrange(keys.of_job(job).fingerprints, first, last))
        offsets = range(0, (stop - start) * FINGERPRINT_BYTES, FINGERPRINT_BYTES)
        return [data[offset : offset + FINGERPRINT_BYTES] for offset in offsets]

    def _indices(
        self, names: Sequence[str], start: int, stop: int, *, set_bits: bool
    ) -> Iterator[int]:
        """Yield the indices from `start` to before `stop` whose bit is set in one of the bitmaps.

        With `set_bits` False, those whose bit is set in none; bits beyond a bitmap's end are not.
        """
        end = -(-stop // 8)
        for first in range(start // 8, end, CHUNK):
            length = min(CHUNK, end - first)
            parts = (self._client.getrange(name, first, first + length - 1) for name in names)
            chunks = (cast("bytes", part).ljust(length, b"\0") for part in parts)
            bits = reduce(or_, map(int.from_bytes, chunks))
            if not set_bits:
                bits ^= (1 << 8 * length) - 1
            for number, byte in enumerate(bits.to_bytes(length), first):
                for position in range(8) if byte else ():
                    index = 8 * number + position
                    if byte & 0x80 >> position and start <= index < stop:
                        yield index


def fingerprint(identity: str) -> bytes:
    return hashlib.sha256(identity.encode()).digest()[:FINGERPRINT_BYTES]


def _owner(claim: bytes) -> ClaimOwner:
    """Parse a stored claim: a mark, the worker's name, and a unique end."""
    worker = claim[1:].decode().rpartition(" ")[0]
    return ClaimOwner(worker, redelivered=claim.startswith(REDELIVERED))


def _no_item(job: JobId, index: int) -> str:
    return f"job {job} has no item: {index}"
