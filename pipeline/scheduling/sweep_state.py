"""When a sweep starts and stops, by Debian's cron rules, and the state of each sweep in Redis.

Arguments are times that are aware of their zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast
from zoneinfo import ZoneInfo

from cronsim import CronSim

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.types import JobId

if TYPE_CHECKING:
    from bgpipe.config.sweeps import Sweep
    from bgpipe.pipeline.broker.client import RedisClient


def last_start(sweep: Sweep, now: datetime) -> datetime | None:
    """Return the latest scheduled start up to `now`."""
    if not sweep.schedule:
        return None
    after = _local(sweep, now).replace(microsecond=0) + timedelta(seconds=1)
    return next(CronSim(sweep.schedule, after, reverse=True), None)


def next_start(sweep: Sweep, now: datetime) -> datetime | None:
    """Return the first scheduled start after `now`."""
    return next(CronSim(sweep.schedule, _local(sweep, now)), None) if sweep.schedule else None


def deadline_of(sweep: Sweep, start: datetime) -> datetime | None:
    """Return the first time after `start` at which the local clock shows the sweep's deadline."""
    if sweep.deadline is None:
        return None
    local = _local(sweep, start)
    days = (local.date(), local.date() + timedelta(days=1))
    deadlines = (datetime.combine(day, sweep.deadline, local.tzinfo) for day in days)
    return next(each for each in deadlines if each.timestamp() > local.timestamp())


def _local(sweep: Sweep, moment: datetime) -> datetime:
    return moment.astimezone(ZoneInfo(sweep.time_zone))


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
        return SweepState(
            first_seen=float(fields[b"since"]),
            start=float(fields.get(b"start", 0)),
            job=JobId(fields.get(b"job", b"").decode()),
            deadline=float(fields.get(b"until", 0)),
            notified=b"told" in fields,
            failures=int(fields.get(b"failures", 0)),
            retry_at=float(fields.get(b"again", 0)),
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
