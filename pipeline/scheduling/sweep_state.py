"""The state of each sweep in Redis: its last start, run and failures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.types import JobId


@dataclass(frozen=True, slots=True)
class SweepState:
    """Times are Unix seconds, 0 if not set. `start` is the last scheduled start that was handled."""

    first_seen: float
    """Starts before this time were not missed."""
    start: float
    job: JobId
    """The last run; empty if there was none."""
    deadline: float
    """Unix time at which the last run stops."""
    notified: bool
    """Whether the end of the last run was reported."""
    failures: int
    """Consecutive starts that failed."""
    retry_at: float


class SweepStateStore:
    """The states of all sweeps."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def read(self, name: str, now: datetime) -> SweepState:
        """Return the state; a sweep without one is first seen `now`."""
        key = keys.of_sweep(name)
        self._client.hsetnx(key, "since", str(now.timestamp()))
        fields = cast("dict[bytes, bytes]", self._client.hgetall(key))
        values = {field.decode(): value.decode() for field, value in fields.items()}
        return SweepState(
            first_seen=float(values["since"]),
            start=float(values.get("start", 0)),
            job=JobId(values.get("job", "")),
            deadline=float(values.get("until", 0)),
            notified="told" in values,
            failures=int(values.get("failures", 0)),
            retry_at=float(values.get("again", 0)),
        )

    def write_start(self, name: str, start: datetime) -> None:
        """Mark the start scheduled at this time as handled."""
        key = keys.of_sweep(name)
        self._client.hset(key, "start", str(start.timestamp()))
        self._client.hdel(key, "failures", "again")

    def write_failure(self, name: str, failures: int, retry_at: datetime) -> None:
        key = keys.of_sweep(name)
        self._client.hset(key, mapping={"failures": failures, "again": str(retry_at.timestamp())})

    def clear_retry(self, name: str) -> None:
        self._client.hdel(keys.of_sweep(name), "again")

    def write_run(self, name: str, job_id: JobId, deadline: datetime | None) -> None:
        """Make the job the sweep's current run."""
        key, until = keys.of_sweep(name), deadline.timestamp() if deadline else 0.0
        self._client.hset(key, mapping={"job": job_id, "until": str(until)})
        self._client.hdel(key, "told")

    def write_notified(self, name: str) -> None:
        """Mark the end of the last run as reported, even if no receiver accepted it."""
        self._client.hset(keys.of_sweep(name), "told", "1")
