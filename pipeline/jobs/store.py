"""Jobs in Redis: open, list, lead, cancel, retry and forget them.

    open -> listing -> running -> finished
               |          |          | retry, where images failed: running again
               `----------+-> cancelled
                                     | resume: listing or running again

Processes that list and feed a job write with a fencing token (bgpipe.pipeline.broker.lease): once a newer
one was seen, older ones are refused, so that a leader that stalled past its lease changes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.jobs import scripts
from bgpipe.pipeline.jobs.items import ItemStore
from bgpipe.pipeline.jobs.manifest import ManifestStore, pack_names, unpack_names
from bgpipe.pipeline.jobs.records import read_record, summarize, write_record
from bgpipe.pipeline.jobs.scripts import (
    JobConflict,
    JobNotFound,
    LeaseLost,
    check_reply,
    run_script,
)
from bgpipe.pipeline.types import OPEN_STATES, Item, Job, JobId, JobState, JobSummary

__all__ = ["JobConflict", "JobNotFound", "JobStore", "LeaseLost", "new_job_id"]

NO_TOKEN = 0
"""Accepted as long as no process has led the job."""


def new_job_id(prefix: str = "", random_bytes: int = 2) -> JobId:
    """Return a name that sorts by time after `prefix`; the random bytes tell apart jobs of one second."""
    return JobId(f"{prefix}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(random_bytes)}")


class JobStore:
    """All jobs in one Redis, and their items. Threads may share it.

    Every method raises JobNotFound for an unknown job, and StoreCorrupted for keys that another
    program wrote.
    """

    def __init__(self, client: RedisClient) -> None:
        manifests = ManifestStore(client)
        self.items = ItemStore(client, manifests)
        self._client = client
        self._manifests = manifests

    def open(self, job: Job, named: Sequence[str] = ()) -> None:
        """Open `job` for listing; `named` are the keys behind `job.named`.

        Raises:
            UsageError: a job of this name exists.
            JobConflict: an open job has the same source and target.

        """
        names = keys.of_job(job.id)
        locations = keys.of_locations(job.locations_digest)
        packed = [pack_names(named)] if named else []
        holder = run_script(
            self._client,
            "open",
            [names.head, keys.JOBS, locations, names.named],
            job.id,
            write_record(job),
            job.created,
            *packed,
        )
        if not holder:
            raise UsageError(f"job already exists: {job.id}: choose another name")
        _check_target_free(holder, job.id)

    def job(self, job: JobId) -> Job:
        """Return the job as it was submitted."""
        record = self._client.hget(keys.of_job(job).head, "job")
        if record is None:
            raise JobNotFound(job)
        return read_record(job, record)

    def named(self, job: JobId) -> list[str]:
        """Return the keys that the submitter named; kept until the job is listed."""
        data = self._client.get(keys.of_job(job).named)
        return unpack_names(job, data) if isinstance(data, bytes) else []

    def summary(self, job: JobId) -> JobSummary:
        """Return the counters as they are now."""
        names = keys.of_job(job)
        leases = (keys.lease_of_job(job), keys.DISPATCH, keys.MAINTENANCE)
        flat, running, now, held = run_script(
            self._client, "summary", [names.head, names.running, *map(keys.of_lease, leases)]
        )
        head = dict(zip(*[(text.decode() for text in flat)] * 2, strict=True))
        if not head:
            raise JobNotFound(job)
        interrupted = not held and self._is_interrupted(head)
        return summarize(job, head, running, float(now), interrupted=interrupted)

    def relist(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Begin the listing; drop the items of a listing that did not reach its end."""
        names = keys.of_job(job)
        reply = run_script(self._client, "list", [names.head, names.manifest], token)
        check_reply(reply, job, f"job {job} is not being listed: bgpipe status {job}")

    def add(self, job: JobId, items: Sequence[Item], token: int = NO_TOKEN) -> None:
        """Append `items` to the manifest; their indices continue from its end, beginning at 0."""
        if not items:
            return
        reply = self._manifests.append(job, items, token)
        if reply == scripts.NO_SUCH_ITEM:
            raise UsageError(f"the manifest of job {job} does not end at item {items[0].index}")
        check_reply(reply, job)

    def skip(self, job: JobId, count: int, token: int = NO_TOKEN) -> None:
        """Set the total number of up-to-date images; they are not in the manifest."""
        self._set(job, "skipped", count, token)

    def start(self, job: JobId, token: int = NO_TOKEN) -> None:
        """End the listing: the job runs, or has finished if its manifest is empty."""
        names = keys.of_job(job)
        changed = [names.head, names.named, keys.TOTALS]
        check_reply(run_script(self._client, "start", changed, token), job)

    def lead(self, job: JobId, token: int) -> int:
        """Refuse older tokens from now on; returns the cursor.

        Raises:
            LeaseLost: a newer token has written.

        """
        reply = run_script(self._client, "lead", [keys.of_job(job).head], token)
        return int(check_reply(reply, job))

    def cursor(self, job: JobId) -> int:
        """Return the number of items, from the first one on, that were published."""
        value = self._client.hget(keys.of_job(job).head, "cursor")
        if value is None:
            raise JobNotFound(job)
        return int(value)

    def set_cursor(self, job: JobId, cursor: int, token: int = NO_TOKEN) -> None:
        """Record that all items before `cursor` were published."""
        self._set(job, "cursor", cursor, token)

    def cancel(self, job: JobId) -> None:
        """Stop listing, feeding and claiming; items in flight may end.

        Raises:
            UsageError: the job has finished.

        """
        reply = run_script(self._client, "cancel", [keys.of_job(job).head])
        check_reply(reply, job, f"job {job} has finished: there is nothing to cancel")

    def resume(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Reopen a cancelled job with every item that is not settled; others stay as they are.

        Raises:
            JobConflict: an open job has the same source and target.

        """
        target = keys.of_locations(self.job(job).locations_digest)
        reply = run_script(self._client, "resume", [keys.of_job(job).head, target], token, job)
        _check_target_free(check_reply(reply, job), job)

    def retry(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Reopen a finished job for the items that failed; their attempts count anew.

        Raises:
            JobConflict: an open job has the same source and target.
            UsageError: the job has not finished.

        """
        names, target = keys.of_job(job), keys.of_locations(self.job(job).locations_digest)
        changed = [names.failed, names.errors, names.claimed, names.repeats]
        reply = run_script(self._client, "retry", [names.head, target, *changed], token, job)
        wrong = f"job {job} has not finished: wait for its end, or resume it if it was cancelled"
        _check_target_free(check_reply(reply, job, wrong), job)

    def forget(self, job: JobId) -> None:
        """Remove all keys of the job.

        Raises:
            UsageError: the job is open.

        """
        if self._client.zscore(keys.JOBS, job) is None:
            raise JobNotFound(job)
        names = keys.of_job(job)
        removed = [keys.JOBS, self._target(job), *names.all()]
        reply = run_script(self._client, "forget", removed, job)
        check_reply(reply, job, f"job {job} is open: end it with bgpipe cancel {job}")

    def ids(self) -> list[JobId]:
        """Return every job, the newest first."""
        return self._newest(last=-1)

    def latest(self) -> JobId | None:
        """Return the newest job."""
        return next(iter(self._newest(last=0)), None)

    def running_ids(self) -> list[JobId]:
        """Return the running jobs, the oldest first."""
        names = run_script(self._client, "running", [keys.JOBS], keys.JOB_PREFIX)
        return [JobId(name.decode()) for name in names]

    def closed_before(self, moment: float) -> list[JobId]:
        """Return the jobs that finished or were cancelled before the Unix time `moment`."""
        names = cast("list[bytes]", self._client.zrangebyscore(keys.JOBS, "-inf", moment))
        jobs = [JobId(name.decode()) for name in names]
        return [job for job in jobs if self._closed(job) < moment]

    def _closed(self, job: JobId) -> float:
        finished = self._client.hget(keys.of_job(job).head, "finished")
        return float(finished) if finished else float("inf")

    def _is_interrupted(self, head: Mapping[str, str]) -> bool:
        """Whether a job without a leader makes no progress; one published whole needs only workers."""
        if head.get("state") not in OPEN_STATES:
            return False
        published = head["state"] == JobState.RUNNING and head.get("cursor") == head.get("size")
        return not (published and any(self._client.scan_iter(keys.of_worker("*"), count=1000)))

    def _target(self, job: JobId) -> str:
        """Return the key of the job's target; a damaged record has none."""
        try:
            return keys.of_locations(self.job(job).locations_digest)
        except (StoreCorrupted, JobNotFound):
            return keys.of_locations("")

    def _set(self, job: JobId, field: str, value: int, token: int) -> None:
        head = keys.of_job(job).head
        check_reply(run_script(self._client, "write", [head], token, field, value), job)

    def _newest(self, last: int) -> list[JobId]:
        names = cast("list[bytes]", self._client.zrevrange(keys.JOBS, 0, last))
        return [JobId(name.decode()) for name in names]


def _check_target_free(holder: bytes, job: JobId) -> None:
    if holder.decode() != job:
        raise JobConflict(JobId(holder.decode()))
