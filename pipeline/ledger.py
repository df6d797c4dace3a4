"""The ledger: what each job was asked for, and how each of its images ended.

Per image it keeps the packed manifest and three bits; hashes hold only what is in flight, what was
claimed more than once and what failed. An image is claimed before any work and settled once, after
its cutout exists.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from bgpipe.pipeline import keys, scripts
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.manifest import Manifests
from bgpipe.pipeline.types import (
    Books,
    Failure,
    Item,
    Job,
    JobId,
    JobState,
    Outcome,
    Preset,
    Recipe,
)

CHUNK = 8192
"""Bytes of a bitmap read at once: 65,536 images."""
PAGE = 500
"""Failures read at once."""
DETAIL = 1000
"""Characters of an error's detail that are kept."""


class UnknownJob(UsageError):
    pass


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on an item. `attempt` counts from 1."""

    attempt: int
    item: Item


class Ledger:
    """The books of all jobs in one Redis. Threads may share it."""

    def __init__(self, client: Connection) -> None:
        self._client = client
        self._manifests = Manifests(client)
        self._open = client.register_script(scripts.OPEN)
        self._start = client.register_script(scripts.START)
        self._claim = client.register_script(scripts.CLAIM)
        self._settle = client.register_script(scripts.SETTLE)
        self._books = client.register_script(scripts.BOOKS)

    def open(self, job: Job) -> None:
        """Begin the books of `job`, its listing to follow.

        Raises:
            UsageError: there is another job of this name.

        """
        asked = json.dumps(asdict(job), sort_keys=True)
        head = keys.of_job(job.id).head
        if not self._open(keys=[head, keys.JOBS], args=[job.id, asked, job.created]):
            raise UsageError(f"there is a job of this name already: {job.id}: choose another one")

    def add(self, job: JobId, items: Sequence[Item]) -> None:
        """Append `items` to the manifest; their indices go on where it ends, from 0."""
        if items:
            self._manifests.append(job, items)

    def skip(self, job: JobId, count: int) -> None:
        """Say that `count` images in all are up to date; they are not in the manifest."""
        self._client.hset(keys.of_job(job).head, "skipped", str(count))

    def start(self, job: JobId) -> None:
        """End the listing: the job runs, or has finished if its manifest is empty."""
        self._found(self._start(keys=[keys.of_job(job).head]), job)

    def job(self, job: JobId) -> Job:
        """What was asked for.

        Raises:
            UnknownJob: nothing is known of it.

        """
        asked = self._client.hget(keys.of_job(job).head, "job")
        if asked is None:
            raise _unknown(job)
        return _job(json.loads(asked))

    def item(self, job: JobId, index: int) -> Item:
        """The item at `index`.

        Raises:
            UsageError: there is none.

        """
        return self._manifests.item(job, index)

    def items(self, job: JobId, start: int, stop: int) -> Iterator[Item]:
        """The items from `start` to before `stop`, as many as there are."""
        return self._manifests.items(job, start, stop)

    def claim(self, job: JobId, index: int, worker: str) -> Claim | None:
        """Count an attempt and note that `worker` makes it, before any work is done.

        Returns None if the item is settled or the job cancelled: there is nothing to do.

        Raises:
            UsageError: there is no such job or item.

        """
        names = keys.of_job(job)
        attempt = self._claim(
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
        if self._found(attempt, job, index) == scripts.REFUSED:
            return None
        return Claim(attempt, self.item(job, index))

    def settle(self, job: JobId, outcome: Outcome) -> bool:
        """Record how an item ended; the last one finishes the job.

        Returns whether it did so: False if the item was settled before, which changes nothing.

        Raises:
            UsageError: there is no such job or item.

        """
        names = keys.of_job(job)
        error = [outcome.code, _error(outcome)] if outcome.code else []
        settled = self._settle(
            keys=[names.head, names.done, names.failed, names.running, names.errors],
            args=[outcome.index, *error],
        )
        return self._found(settled, job, outcome.index) != scripts.REFUSED

    def release(self, job: JobId, index: int) -> None:
        """Say that nobody works on the item for now: it will be tried again."""
        self._client.hdel(keys.of_job(job).running, str(index))

    def claims(self, job: JobId) -> dict[int, str]:
        """The items in flight and the worker that claimed each last."""
        running = cast("dict[bytes, bytes]", self._client.hgetall(keys.of_job(job).running))
        return {int(index): who.decode().rpartition(" ")[0] for index, who in running.items()}

    def missing(self, job: JobId) -> Iterator[int]:
        """The indices of the items that are not settled, in order."""
        names = keys.of_job(job)
        size = self.size(job)
        for start in range(0, -(-size // 8), CHUNK):
            stop = min(start + CHUNK, -(-size // 8))
            done, failed = (
                cast("bytes", self._client.getrange(bitmap, start, stop - 1))
                for bitmap in (names.done, names.failed)
            )
            for place in _unset(done, failed, stop - start):
                if start * 8 + place < size:
                    yield start * 8 + place

    def size(self, job: JobId) -> int:
        """How many items the manifest has so far."""
        return self._number(job, "size")

    def cursor(self, job: JobId) -> int:
        """How many items, from the first one on, were published."""
        return self._number(job, "cursor")

    def advance(self, job: JobId, cursor: int) -> None:
        """Say that all items before `cursor` were published."""
        self._client.hset(keys.of_job(job).head, "cursor", str(cursor))

    def books(self, job: JobId) -> Books:
        """The accounts as they are now.

        Raises:
            UnknownJob: nothing is known of the job.

        """
        names = keys.of_job(job)
        flat, running, now = self._books(keys=[names.head, names.running])
        head = dict(zip(*[(text.decode() for text in flat)] * 2, strict=True))
        if not head:
            raise _unknown(job)
        return _account(head, running, float(now))

    def failures(self, job: JobId) -> Iterator[Failure]:
        """The images given up, in the order of the manifest."""
        names = keys.of_job(job)
        indices = sorted(int(index) for index in self._client.hkeys(names.errors))
        for start in range(0, len(indices), PAGE):
            page = indices[start : start + PAGE]
            fields = [str(index) for index in page]
            errors = cast("list[bytes]", self._client.hmget(names.errors, fields))
            repeats = self._client.hmget(names.repeats, fields)
            for index, error, repeated in zip(page, errors, repeats, strict=True):
                yield _failure(self.item(job, index), json.loads(error), int(repeated or 0))

    def jobs(self) -> list[Books]:
        """The books of every job, the newest first."""
        return [self.books(job) for job in self._newest(last=-1)]

    def latest(self) -> JobId | None:
        """The newest job."""
        return next(iter(self._newest(last=0)), None)

    def _newest(self, last: int) -> list[JobId]:
        """The jobs by age, from the newest to the one in place `last`."""
        names = cast("list[bytes]", self._client.zrevrange(keys.JOBS, 0, last))
        return [JobId(name.decode()) for name in names]

    def _number(self, job: JobId, field: str) -> int:
        value = self._client.hget(keys.of_job(job).head, field)
        if value is None:
            raise _unknown(job)
        return int(value)

    @staticmethod
    def _found(answer: int, job: JobId, index: int | None = None) -> int:
        """A script's answer, unless it is that there is no such thing."""
        if answer == scripts.UNKNOWN_JOB:
            raise _unknown(job)
        if answer == scripts.NO_SUCH_ITEM:
            raise UsageError(f"job {job} has no item: {index}")
        return answer


def _unknown(job: JobId) -> UnknownJob:
    return UnknownJob(f"unknown job: {job}: bgpipe status without a name shows the newest one")


def _job(values: dict[str, Any]) -> Job:
    recipe = values["recipe"]
    height, width = recipe["size"]
    recipe |= {"preset": Preset(**recipe["preset"]), "size": (height, width)}
    patterns = {name: tuple(values[name]) for name in ("include", "exclude")}
    return Job(**values | patterns | {"recipe": Recipe(**recipe)})


def _error(outcome: Outcome) -> str:
    return json.dumps({"code": outcome.code, "detail": outcome.detail[:DETAIL]})


def _failure(item: Item, error: dict[str, str], repeats: int) -> Failure:
    return Failure(
        index=item.index,
        source=item.source,
        target=item.target,
        code=error["code"],
        detail=error["detail"],
        attempts=1 + repeats,
    )


def _account(head: dict[str, str], running: int, now: float) -> Books:
    job = _job(json.loads(head["job"]))
    size, done, failed, skipped, flagged = (
        int(head.get(name, 0)) for name in ("size", "done", "failed", "skipped", "flagged")
    )
    seconds = float(head.get("finished", now)) - float(head.get("started", now))
    return Books(
        job=job.id,
        state=JobState(head["state"]),
        total=size + skipped,
        done=done,
        skipped=skipped,
        failed=failed,
        flagged=flagged,
        queued=size - done - failed - running,
        running=running,
        seconds=seconds,
        images_per_second=done / seconds if seconds > 0 else 0.0,
        source=job.source,
        out=job.out,
        model=job.recipe.model,
        errors={
            name.removeprefix("error:"): int(count)
            for name, count in sorted(head.items())
            if name.startswith("error:")
        },
    )


def _unset(done: bytes, failed: bytes, length: int) -> Iterator[int]:
    """The places of the bits that are set in neither bitmap, of which `length` bytes count."""
    pairs = zip(done.ljust(length, b"\0"), failed.ljust(length, b"\0"), strict=True)
    for number, (left, right) in enumerate(pairs):
        bits = left | right
        if bits != 0xFF:
            yield from (8 * number + place for place in range(8) if not bits & 0x80 >> place)
