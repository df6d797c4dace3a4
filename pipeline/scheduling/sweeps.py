"""Sweeps: when each one is to start, to stop and to be told of, as the dispatcher sees to it.

A run is a job like any other. It lists source and target anew, so a run that its deadline stopped
needs no mark of where it was: the next one finds what is done up to date and goes on with the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Protocol, cast

from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.errors import Unavailable, UsageError
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.scheduling.cron import deadline_of, last_start
from bgpipe.pipeline.scheduling.webhook import post_webhook
from bgpipe.pipeline.types import OPEN_STATES, JobId, JobState, JobSummary

LONGEST_RETRY = 3600.0
"""Seconds before a start that failed is tried again at most."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SweepState:
    """What was last done for a sweep. Times are Unix seconds; 0 where there is none."""

    first_seen: float
    """When it was first seen: starts before that were not missed."""
    start: float
    """The start that was last dealt with."""
    job: JobId
    """Of the last run; empty if there was none."""
    deadline: float
    """The last run's deadline."""
    notified: bool
    """Whether the end of the last run was told."""
    failures: int
    """How often the last start failed."""
    retry_at: float
    """When it is tried again."""


class SweepStateStore:
    """The records of all sweeps, in Redis."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def read(self, name: str, now: datetime) -> SweepState:
        key = keys.of_sweep(name)
        self._client.hsetnx(key, "since", str(now.timestamp()))
        found = cast("dict[bytes, bytes]", self._client.hgetall(key))
        values = {field.decode(): value.decode() for field, value in found.items()}
        return SweepState(
            first_seen=float(values["since"]),
            start=float(values.get("start", 0)),
            job=JobId(values.get("job", "")),
            deadline=float(values.get("until", 0)),
            notified="told" in values,
            failures=int(values.get("failures", 0)),
            retry_at=float(values.get("again", 0)),
        )

    def start(self, name: str, start: datetime) -> None:
        """Say that the start at this time was dealt with."""
        key = keys.of_sweep(name)
        self._client.hset(key, "start", str(start.timestamp()))
        self._client.hdel(key, "failures", "again")

    def fail(self, name: str, failures: int, again: datetime) -> None:
        """Say that the last start has failed so often, and is to be tried again at a time."""
        key = keys.of_sweep(name)
        self._client.hset(key, mapping={"failures": failures, "again": str(again.timestamp())})

    def try_again(self, name: str) -> None:
        """Say that what was to be tried again is under way, or past."""
        self._client.hdel(keys.of_sweep(name), "again")

    def begin(self, name: str, job: JobId, until: datetime | None) -> None:
        """Say that `job` is the sweep's run now, up to a deadline."""
        key = keys.of_sweep(name)
        self._client.hset(
            key, mapping={"job": job, "until": str(until.timestamp() if until else 0.0)}
        )
        self._client.hdel(key, "told")

    def end(self, name: str) -> None:
        """Say that the end of the last run was told, as far as that was possible."""
        self._client.hset(keys.of_sweep(name), "told", "1")

    def is_led(self, job: JobId) -> bool:
        """Whether somebody lists or feeds the run."""
        return is_held(self._client, keys.lease_of_job(job))


class SweepProcess(Protocol):
    """A command that starts a run, as a process of its own: listing a bucket takes a while."""

    def poll(self) -> int | None: ...


class SweepScheduler:
    """Starts, stops and tells of the sweeps. Call `turn` again and again, in one process only."""

    def __init__(
        self,
        sweeps: Mapping[str, Sweep],
        records: SweepStateStore,
        job_store: JobStore,
        launch: Callable[[str, datetime], SweepProcess],
        retry: float,
    ) -> None:
        """`launch` starts the sweep of a name, whose start was due at a time.

        `retry`: seconds before a start that failed is tried again, doubled each time.
        """
        self._sweeps = sweeps
        self._records = records
        self._job_store = job_store
        self._launch = launch
        self._retry = retry
        self._launched: dict[str, SweepProcess] = {}
        self._telling: dict[str, Thread] = {}

    def step(self) -> None:
        """Do once what there is to do for every sweep."""
        now = datetime.now(UTC)
        for name, sweep in self._sweeps.items():
            record = self._records.read(name, now)
            summary = self._summary(record.job)
            if summary and summary.state in OPEN_STATES:
                self._stop_if_late(name, record, now)
            elif summary and summary.state is JobState.FINISHED and not record.notified:
                self._notify(name, sweep, summary)
            if self._is_starting(name, record, now):
                continue
            if summary and summary.state in OPEN_STATES and not self._is_abandoned(summary):
                # It goes on; a start that comes meanwhile is caught up when it has ended.
                self._records.try_again(name)
            else:
                self._start_if_due(name, sweep, record, summary, now)

    def _start_if_due(
        self, name: str, sweep: Sweep, record: SweepState, summary: JobSummary | None, now: datetime
    ) -> None:
        start = last_start(sweep, now)
        if start is None:
            return
        is_new = start.timestamp() > max(record.first_seen, record.start)
        if is_new or 0 < record.retry_at <= now.timestamp():
            self._start(name, sweep, start, now, is_new=is_new)
        elif not record.retry_at and summary and summary.state is JobState.LISTING:
            self._plan_retry(name, record, now, "its listing was left")

    def _start(
        self, name: str, sweep: Sweep, start: datetime, now: datetime, *, is_new: bool
    ) -> None:
        fields = {"sweep": name, "due": start.isoformat()}
        until = deadline_of(sweep, start)
        if until is None or now < until:
            log.info("sweep starts", extra={"fields": fields})
            self._launched[name] = self._launch(name, start)
        elif not is_new:
            log.error("sweep did not start before its deadline", extra={"fields": fields})
        # After the launch: a dispatcher that dies in between launches twice, and the ledger refuses
        # the second job.
        if is_new:
            self._records.start(name, start)
        else:
            self._records.try_again(name)

    def _is_abandoned(self, summary: JobSummary) -> bool:
        """Whether whoever listed the run is gone; one that is listed is the dispatcher's."""
        return summary.state is JobState.LISTING and not self._records.is_led(summary.job)

    def _plan_retry(self, name: str, record: SweepState, now: datetime, reason: str) -> None:
        delay = min(self._retry * 2.0**record.failures, LONGEST_RETRY)
        self._records.fail(name, record.failures + 1, now + timedelta(seconds=delay))
        fields = {"sweep": name, "reason": reason, "failures": record.failures + 1}
        log.error("sweep did not start", extra={"fields": fields | {"again_in": delay}})

    def _stop_if_late(self, name: str, record: SweepState, now: datetime) -> None:
        if 0 < record.deadline <= now.timestamp():
            log.info("sweep reached its deadline", extra={"fields": {"sweep": name}})
            stop(self._job_store, record.job)

    def _notify(self, name: str, sweep: Sweep, summary: JobSummary) -> None:
        """In a thread: whoever is told may be slow, and the jobs do not wait for it."""
        thread = self._telling.get(name)
        if thread is None or not thread.is_alive():
            arguments = (self._records, name, sweep, summary)
            thread = Thread(target=notify_finished, args=arguments, name="webhook", daemon=True)
            self._telling[name] = thread
            thread.start()

    def _is_starting(self, name: str, record: SweepState, now: datetime) -> bool:
        """Whether the command that starts a run is at work; one that failed is tried again."""
        process = self._launched.get(name)
        if process is None:
            return False
        code = process.poll()
        if code is None:
            return True
        del self._launched[name]
        if code == Unavailable.exit_code or code < 0:
            self._plan_retry(name, record, now, f"exit code {code}")
            return True
        if code:  # the settings or the source are wrong, and will be so in an hour
            log.error("sweep did not start", extra={"fields": {"sweep": name, "exit": code}})
        return False

    def _summary(self, job: JobId) -> JobSummary | None:
        try:
            return self._job_store.summary(job) if job else None
        except UsageError:
            return None  # forgotten since


def stop(job_store: JobStore, job: JobId) -> None:
    """Let nothing more of a sweep's run be done."""
    try:
        job_store.cancel(job)
    except UsageError:
        log.info("sweep ended just in time", extra={"fields": {"job": job}})


def notify_finished(records: SweepStateStore, name: str, sweep: Sweep, summary: JobSummary) -> None:
    """Send the books of a finished run to the sweep's address, if it has one."""
    if sweep.on_finish:
        message = {"sweep": name} | asdict(summary)
        trouble = post_webhook(
            sweep.on_finish, message, sweep.secret.get_secret_value(), summary.job
        )
        if trouble:
            fields = {"sweep": name, "error": trouble}
            log.error("nobody could be told of a sweep's end", extra={"fields": fields})
    records.end(name)
