"""Jobs in Redis: open, list, lead, cancel, retry and forget them.

    open -> listing -> running -> finished
               |          |          | retry, where images failed: running again
               `----------+-> cancelled
                                     | resume: listing or running again

A running job is paused once REFUSALS of its items in a row were refused by a store, a model or a device:
workers then claim nothing but the probe that its leader sets. An item that is done ends the pause.

Processes that list and feed a job write with a fencing token (bgpipe.pipeline.broker.lease): once a newer
one was seen, older ones are refused, so that a leader that stalled past its lease changes nothing.
"""

import itertools
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import StoreCorrupted, UsageError
from bgpipe.pipeline.jobs.items import MOST_ITEMS, ItemStore
from bgpipe.pipeline.jobs.manifest import pack_names, unpack_names
from bgpipe.pipeline.jobs.records import read_record, summarize, write_record
from bgpipe.pipeline.jobs.scripts import JobConflict as JobConflict  # exported, like the next two
from bgpipe.pipeline.jobs.scripts import JobNotFound as JobNotFound
from bgpipe.pipeline.jobs.scripts import LeaseLost as LeaseLost
from bgpipe.pipeline.jobs.scripts import change_job, read_head, run_script
from bgpipe.pipeline.types import OPEN_STATES, Item, Job, JobId, JobState, JobSummary

INDEXED = 500
"""Jobs looked at by one script."""
NO_TOKEN = 0
"""Accepted as long as no process has led the job."""


def new_job_id(prefix: str = "", random_bytes: int = 2) -> JobId:
    """Return a name that sorts by time after `prefix`; the random bytes tell apart jobs of one second."""
    return JobId(f"{prefix}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(random_bytes)}")


class JobStore:
    """All jobs in one Redis, and their items. Threads may share it.

    Every method raises JobNotFound for an unknown job, StoreCorrupted for keys that another program
    wrote, LeaseLost once a newer token than its own was seen, and UsageError if the job's state does
    not allow it. `open`, `resume` and `retry` raise JobConflict while an open job has the same source
    and target.
    """

    def __init__(self, client: RedisClient) -> None:
        self.items = ItemStore(client)
        self._client = client

    def open(self, job: Job, named: Sequence[str] = ()) -> None:
        """Open `job` for listing; UsageError if its name is taken. `named`: keys behind `job.named`."""
        names = keys.of_job(job.id)
        locations = keys.of_locations(job.locations_digest)
        holder = change_job(
            self._client,
            "open",
            job.id,
            [names.head, keys.JOBS, locations, names.named],
            *(job.id, write_record(job), job.created),
            *([pack_names(named)] if named else []),
        )
        if not holder:
            raise UsageError(f"job already exists: {job.id}: choose another name")

    def job(self, job: JobId) -> Job:
        return read_record(job, read_head(self._client, job, "job"))

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
        problem = f"job {job} is not being listed: bgpipe status {job}"
        changed = [names.head, names.manifest]
        change_job(self._client, "list", job, changed, token, wrong_state=problem)

    def add(self, job: JobId, items: Sequence[Item], token: int = NO_TOKEN) -> None:
        """Append `items` to the manifest; their indices continue from its end, beginning at 0."""
        if items and (items[-1].index + 1) * len(items[0].targets) > MOST_ITEMS:
            raise UsageError(
                f"job {job} has more than {MOST_ITEMS:,} cutouts: submit its source in parts, for example "
                "with --include"
            )
        if items:
            self.items.manifests.append(job, items, token)

    def skip(self, job: JobId, count: int, token: int = NO_TOKEN) -> None:
        """Set the total number of up-to-date images; they are not in the manifest."""
        self._set(job, "skipped", count, token)

    def start(self, job: JobId, token: int = NO_TOKEN) -> None:
        """End the listing: the job runs, or has finished if its manifest is empty."""
        names = keys.of_job(job)
        changed = [names.head, names.named, keys.TOTALS, keys.RUNNING]
        change_job(self._client, "start", job, changed, token, job)

    def lead(self, job: JobId, token: int) -> int:
        """Refuse older tokens from now on; returns the cursor."""
        return int(change_job(self._client, "lead", job, [keys.of_job(job).head], token))

    def cursor(self, job: JobId) -> int:
        """Return the number of items, from the first one on, that were published."""
        return int(read_head(self._client, job, "cursor"))

    def set_cursor(self, job: JobId, cursor: int, token: int = NO_TOKEN) -> None:
        """Record that all items before `cursor` were published."""
        self._set(job, "cursor", cursor, token)

    def cancel(self, job: JobId) -> None:
        """Stop listing, feeding and claiming; items in flight may end."""
        problem = f"job {job} has finished: there is nothing to cancel"
        change_job(self._client, "cancel", job, [keys.of_job(job).head], wrong_state=problem)

    def resume(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Reopen a cancelled job with every item that is not settled; others stay as they are."""
        target = keys.of_locations(self.job(job).locations_digest)
        changed = [keys.of_job(job).head, target, keys.RUNNING]
        change_job(self._client, "resume", job, changed, token, job)

    def unpause(self, job: JobId) -> None:
        """Feed a paused job again; a further refusal counts anew."""
        change_job(self._client, "unpause", job, [keys.of_job(job).head])

    def set_probe(self, job: JobId, index: int, token: int = NO_TOKEN) -> None:
        """Let workers claim this item of a paused job, which continues once one is done."""
        self._set(job, "probe", index, token)

    def retry(self, job: JobId, token: int = NO_TOKEN) -> None:
        """Reopen a finished job for the items that failed; their attempts count anew."""
        names, target = keys.of_job(job), keys.of_locations(self.job(job).locations_digest)
        changed = [names.head, target, names.failed, names.errors, names.claimed, keys.RUNNING]
        problem = f"job {job} has not finished: wait for its end, or resume it if it was cancelled"
        change_job(self._client, "retry", job, changed, token, job, wrong_state=problem)

    def forget(self, job: JobId) -> None:
        """Remove all keys of the job, even of a damaged one."""
        if self._client.zscore(keys.JOBS, job) is None:
            raise JobNotFound(job)
        digest = ""
        with suppress(StoreCorrupted, JobNotFound):  # a damaged record has no target
            digest = self.job(job).locations_digest
        removed = [keys.JOBS, keys.RUNNING, keys.of_locations(digest), *keys.of_job(job)]
        problem = f"job {job} is open: end it with bgpipe cancel {job}"
        change_job(self._client, "forget", job, removed, job, wrong_state=problem)

    def ids(self, last: int = -1) -> list[JobId]:
        """Return the jobs, the newest first, up to the position `last`."""
        names = cast("list[bytes]", self._client.zrevrange(keys.JOBS, 0, last))
        return [JobId(name.decode()) for name in names]

    def latest(self) -> JobId | None:
        return next(iter(self.ids(last=0)), None)

    def running_ids(self) -> list[JobId]:
        """Return the running jobs, the oldest first."""
        names = run_script(self._client, "running", [keys.RUNNING], keys.JOB_PREFIX)
        return [JobId(name.decode()) for name in names]

    def index_running(self) -> None:
        """Enter the jobs into the index of running ones that an older version of bgpipe started."""
        for first in itertools.count(0, INDEXED):
            last = first + INDEXED - 1
            names = [keys.JOBS, keys.RUNNING]
            if not run_script(self._client, "reindex", names, keys.JOB_PREFIX, first, last):
                return

    def closed_before(self, moment: float) -> list[JobId]:
        """Return the jobs that finished or were cancelled before the Unix time `moment`."""
        names = cast("list[bytes]", self._client.zrangebyscore(keys.JOBS, "-inf", moment))
        jobs = [JobId(name.decode()) for name in names]
        ends = (self._client.hget(keys.of_job(job).head, "finished") for job in jobs)
        return [job for job, end in zip(jobs, ends, strict=True) if end and float(end) < moment]

    def _is_interrupted(self, head: Mapping[str, str]) -> bool:
        """Whether a job without a leader makes no progress; one published whole needs only workers."""
        if head.get("state") not in OPEN_STATES:
            return False
        published = head["state"] == JobState.RUNNING and head.get("cursor") == head.get("size")
        return not (published and any(self._client.scan_iter(keys.of_worker("*"), count=1000)))

    def _set(self, job: JobId, field: str, value: int, token: int) -> None:
        change_job(self._client, "write", job, [keys.of_job(job).head], token, field, value)
