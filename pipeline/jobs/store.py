"""The jobs of the ledger: opening, listing, leading, cancelling and forgetting them.

    open -> listing -> running -> finished
               |          |          | retry, where images failed: running again
               `----------+-> cancelled
                                     | resume: listing or running again

Those who list and feed a job write with a fencing token (bgpipe.pipeline.broker.lease): once a newer one
was seen, older ones are refused, so that a leader who slept through its end changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import TypeVar, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.jobs import scripts
from bgpipe.pipeline.jobs.manifest import ManifestStore, pack_names, unpack_names
from bgpipe.pipeline.jobs.records import read_record, write_record
from bgpipe.pipeline.types import Item, Job, JobId

ScriptResult = TypeVar("ScriptResult")

NO_TOKEN = 0
"""Enough while nobody has led the job."""


def new_job_id(prefix: str = "", chance: int = 2) -> JobId:
    """Sorts by time after `prefix`; `chance` bytes keep apart what begins in one second."""
    return JobId(f"{prefix}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(chance)}")


class JobNotFound(UsageError):
    pass


class LeaseLost(UsageError):
    """Another command has taken the job over; this one may only watch."""


class JobConflict(UsageError):
    """Another job that does the same is open."""

    def __init__(self, job: JobId) -> None:
        super().__init__(f"another job does this already: {job}: bgpipe status {job}")
        self.job = job


class Docket:
    """All jobs in one Redis. Threads may share it.

    Every method raises UnknownJob where nothing is known of the job, and LedgerDamaged where its
    keys hold what the ledger did not write.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._manifests = ManifestStore(client)
        self._open = client.register_script(scripts.OPEN)
        self._list = client.register_script(scripts.LIST)
        self._write = client.register_script(scripts.WRITE)
        self._start = client.register_script(scripts.START)
        self._lead = client.register_script(scripts.LEAD)
        self._cancel = client.register_script(scripts.CANCEL)
        self._resume = client.register_script(scripts.RESUME)
        self._retry = client.register_script(scripts.RETRY)
        self._forget = client.register_script(scripts.FORGET)
        self._running = client.register_script(scripts.RUNNING)

    def open(self, job: Job, named: Sequence[str] = ()) -> None:
        """Begin the books of `job`, its listing to follow; `named` are the keys behind `job.named`.

        Raises:
            UsageError: there is another job of this name.
            Occupied: an open job reads the same and writes to the same place.

        """
        names = keys.of_job(job.id)
        holder = self._open(
            keys=[names.head, keys.JOBS, keys.of_place(job.place), names.named],
            args=[job.id, write_record(job), job.created, *([pack_names(named)] if named else [])],
        )
        if not holder:
            raise UsageError(f"there is a job of this name already: {job.id}: choose another one")
        _not_occupied(holder, job.id)

    def job(self, job: JobId) -> Job:
        """What was asked for."""
        record = self._client.hget(keys.of_job(job).head, "job")
        if record is None:
            raise job_not_found(job)
        return read_record(job, record)

    def named(self, job: JobId) -> list[str]:
        """The keys that the submitter named; kept until the job is listed."""
        data = self._client.get(keys.of_job(job).named)
        return unpack_names(job, data) if isinstance(data, bytes) else []

    def relist(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Begin the listing, and drop what somebody else listed without coming to the end."""
        names = keys.of_job(job)
        answer = self._list(keys=[names.head, names.manifest], args=[token])
        _check(answer, job, f"job {job} is not being listed: bgpipe status {job}")

    def add(self, job: JobId, items: Sequence[Item], token: int = NO_TOKEN) -> None:
        """Append `items` to the manifest; their indices go on where it ends, from 0."""
        if not items:
            return
        answer = self._manifests.append(job, items, token)
        if answer == scripts.NO_SUCH_ITEM:
            raise UsageError(f"the manifest of job {job} does not end at item {items[0].index}")
        _check(answer, job)

    def skip(self, job: JobId, count: int, token: int = NO_TOKEN) -> None:
        """Say that `count` images in all are up to date; they are not in the manifest."""
        self._put(job, "skipped", count, token)

    def start(self, job: JobId, token: int = NO_TOKEN) -> None:
        """End the listing: the job runs, or has finished if its manifest is empty."""
        names = keys.of_job(job)
        _check(self._start(keys=[names.head, names.named, keys.TOTALS], args=[token]), job)

    def lead(self, job: JobId, token: int) -> int:
        """Let no older token than this one write any more; returns the cursor.

        Raises:
            Superseded: a newer one has written already.

        """
        cursor: int = _check(self._lead(keys=[keys.of_job(job).head], args=[token]), job)
        return cursor

    def set_cursor(self, job: JobId, cursor: int, token: int = NO_TOKEN) -> None:
        """Say that all items before `cursor` were published."""
        self._put(job, "cursor", cursor, token)

    def cancel(self, job: JobId) -> None:
        """Let nothing more of the job be listed, fed or claimed; what is in flight may end.

        Raises:
            UsageError: it has finished.

        """
        answer = self._cancel(keys=[keys.of_job(job).head])
        _check(answer, job, f"job {job} has finished: there is nothing to cancel")

    def resume(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Open a cancelled job again, with all that is not settled; any other stays as it is.

        Raises:
            Occupied: a job that does the same is open.

        """
        order = self.job(job)
        place = keys.of_place(order.place)
        answer = self._resume(keys=[keys.of_job(job).head, place], args=[token, job])
        _not_occupied(_check(answer, job), job)

    def retry(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Open a finished job again for the images that failed, as if nobody had tried them.

        Raises:
            Occupied: a job that does the same is open.
            UsageError: it has not finished.

        """
        names, order = keys.of_job(job), self.job(job)
        answer = self._retry(
            keys=[
                names.head,
                keys.of_place(order.place),
                names.failed,
                names.errors,
                names.claimed,
                names.repeats,
            ],
            args=[token, job],
        )
        wrong = f"job {job} has not finished: wait for its end, or resume it if it was cancelled"
        _not_occupied(_check(answer, job, wrong), job)

    def forget(self, job: JobId) -> None:
        """Remove all keys of the job.

        Raises:
            UsageError: it is open.

        """
        if self._client.zscore(keys.JOBS, job) is None:
            raise job_not_found(job)
        names = keys.of_job(job)
        answer = self._forget(
            keys=[keys.JOBS, self._place(job), *names.all()],
            args=[job],
        )
        _check(answer, job, f"job {job} is not over: bgpipe cancel {job} ends it")

    def ids(self) -> list[JobId]:
        """Every job, the newest first."""
        return self._newest(last=-1)

    def latest(self) -> JobId | None:
        """The newest job."""
        return next(iter(self._newest(last=0)), None)

    def running_ids(self) -> list[JobId]:
        """The jobs that run, the oldest first."""
        names = cast("list[bytes]", self._running(keys=[keys.JOBS], args=[keys.HEAD]))
        return [JobId(name.decode()) for name in names]

    def closed_before(self, moment: float) -> list[JobId]:
        """The jobs that finished or were cancelled before the Unix time `moment`."""
        names = cast("list[bytes]", self._client.zrangebyscore(keys.JOBS, "-inf", moment))
        jobs = [JobId(name.decode()) for name in names]
        return [job for job in jobs if self._closed(job) < moment]

    def _closed(self, job: JobId) -> float:
        finished = self._client.hget(keys.of_job(job).head, "finished")
        return float(finished) if finished else float("inf")

    def _place(self, job: JobId) -> str:
        """The key of the job's place; a damaged record has none to be kept."""
        try:
            return keys.of_place(self.job(job).place)
        except (StoreCorrupted, JobNotFound):
            return keys.of_place("")

    def _put(self, job: JobId, field: str, value: int, token: int) -> None:
        answer = self._write(keys=[keys.of_job(job).head], args=[token, field, value])
        _check(answer, job)

    def _newest(self, last: int) -> list[JobId]:
        """The jobs by age, from the newest to the one in place `last`."""
        names = cast("list[bytes]", self._client.zrevrange(keys.JOBS, 0, last))
        return [JobId(name.decode()) for name in names]


def job_not_found(job: JobId) -> JobNotFound:
    return JobNotFound(f"unknown job: {job}: bgpipe jobs lists those that are known")


def _check(answer: ScriptResult, job: JobId, wrong_state: str = "") -> ScriptResult:
    """A script's answer, unless it is that nothing was done."""
    if answer == scripts.UNKNOWN_JOB:
        raise job_not_found(job)
    if answer == scripts.SUPERSEDED:
        raise LeaseLost(f"another command leads job {job} now: bgpipe status {job} --watch")
    if answer == scripts.WRONG_STATE:
        raise UsageError(wrong_state or f"job {job} was cancelled: bgpipe resume {job} goes on")
    return answer


def _not_occupied(holder: bytes, job: JobId) -> None:
    if holder.decode() != job:
        raise JobConflict(JobId(holder.decode()))
