"""Sweeps: their times, their state in Redis, and their schedule in the dispatcher.

A run is an ordinary job. It lists source and target anew, so a run that its deadline stopped needs no
bookmark: the next one finds the finished images up to date and continues with the rest. Times are
aware of their zone; schedules follow Debian's cron rules.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from threading import Thread
from typing import cast
from zoneinfo import ZoneInfo

from cronsim import CronSim

from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.errors import Unavailable, UsageError
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.scheduling.webhook import post_webhook
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import OPEN_STATES, JobId, JobState, JobSummary

MAX_RETRY_SECONDS = 3600.0
REPEATED = timedelta(hours=2)
"""More than the time by which any zone sets its clocks back."""

log = EventLogger(__name__)


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
    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def read(self, name: str, now: datetime) -> SweepState:
        """Return the state; a sweep without one is first seen `now`."""
        key = keys.of_sweep(name)
        self._client.hsetnx(key, "since", str(now.timestamp()))
        stored = cast("dict[bytes, bytes]", self._client.hgetall(key))
        fields = {field.decode(): value for field, value in stored.items()}
        return SweepState(
            first_seen=float(fields["since"]),
            start=float(fields.get("start", 0)),
            job=JobId(fields.get("job", b"").decode()),
            deadline=float(fields.get("until", 0)),
            notified="told" in fields,
            failures=int(fields.get("failures", 0)),
            retry_at=float(fields.get("again", 0)),
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


def start_process(name: str, scheduled: datetime) -> subprocess.Popen[bytes]:
    """Start the process that lists the run scheduled for this time; see `run_sweep`."""
    command = [sys.executable, "-m", "bgpipe.pipeline.scheduling.run_sweep"]
    return subprocess.Popen([*command, name, scheduled.isoformat()])  # noqa: S603  # names are checked


@dataclass
class SweepScheduler:
    """Starts, stops and reports sweeps. Call `step` repeatedly, in one process only."""

    session: Session
    start: Callable[[str, datetime], subprocess.Popen[bytes]] = start_process
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _notifications: dict[str, Thread] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._states = SweepStateStore(self.session.client)

    def step(self) -> None:
        """Advance every sweep once."""
        now = datetime.now(UTC)
        jobs = self.session.jobs
        for name, sweep in self.session.settings.sweeps.items():
            state = self._states.read(name, now)
            summary = None
            with suppress(UsageError):  # forgotten
                summary = jobs.summary(state.job) if state.job else None
            is_open = summary is not None and summary.state in OPEN_STATES
            if is_open and 0 < state.deadline <= now.timestamp():
                stop_run(jobs, name, state.job)
            elif summary and summary.state is JobState.FINISHED and not state.notified:
                self._notify(name, sweep, summary)
            if self._is_starting(name, state, now):
                continue
            # The process that lists a run holds the lease; a listed run is the dispatcher's.
            lease = keys.lease_of_job(state.job)
            is_listing = summary is not None and summary.state is JobState.LISTING
            if is_open and (not is_listing or is_held(self.session.client, lease)):
                # A start that becomes due meanwhile follows when this run has ended.
                self._states.clear_retry(name)
            else:
                self._start_if_due(name, sweep, state, now, is_abandoned=is_listing)

    def _start_if_due(
        self, name: str, sweep: Sweep, state: SweepState, now: datetime, *, is_abandoned: bool
    ) -> None:
        scheduled = last_start(sweep, now)
        if scheduled is None:
            return
        is_new = scheduled.timestamp() > max(state.first_seen, state.start)
        if not is_new and not 0 < state.retry_at <= now.timestamp():
            if is_abandoned and not state.retry_at:
                self._schedule_retry(name, state, now, "its listing was abandoned")
            return
        due = scheduled.isoformat()
        deadline = deadline_of(sweep, scheduled)
        if deadline is None or now < deadline:
            log.info("sweep starts", sweep=name, due=due)
            self._processes[name] = self.start(name, scheduled)
        elif not is_new:
            log.error("sweep did not start before its deadline", sweep=name, due=due)
        # After the start: a dispatcher that dies in between starts twice, and the job store refuses
        # the second job.
        if is_new:
            self._states.write_start(name, scheduled)
        else:
            self._states.clear_retry(name)

    def _schedule_retry(self, name: str, state: SweepState, now: datetime, reason: str) -> None:
        failures = state.failures + 1
        first = self.session.settings.dispatch.sweep_retry
        delay = min(first * 2.0**state.failures, MAX_RETRY_SECONDS)
        self._states.write_failure(name, failures, now + timedelta(seconds=delay))
        log.error(
            "sweep did not start", sweep=name, reason=reason, failures=failures, again_in=delay
        )

    def _notify(self, name: str, sweep: Sweep, summary: JobSummary) -> None:
        """Notify from a thread: a slow receiver must not delay the jobs."""
        thread = self._notifications.get(name)
        if thread is None or not thread.is_alive():
            arguments = (self._states, name, sweep, summary)
            thread = Thread(target=notify_finished, args=arguments, name="webhook", daemon=True)
            self._notifications[name] = thread
            thread.start()

    def _is_starting(self, name: str, state: SweepState, now: datetime) -> bool:
        """Whether the process of a run is active, or its retry was just scheduled."""
        process = self._processes.get(name)
        if process is None:
            return False
        code = process.poll()
        if code is None:
            return True
        del self._processes[name]
        if code == Unavailable.exit_code or code < 0:
            self._schedule_retry(name, state, now, f"exit code {code}")
            return True
        if code:  # wrong settings or an empty source: a retry would fail too
            log.error("sweep did not start", sweep=name, exit=code)
        return False


def stop_run(jobs: JobStore, name: str, job_id: JobId) -> None:
    """Cancel a run that has reached its deadline."""
    log.info("sweep reached its deadline", sweep=name)
    try:
        jobs.cancel(job_id)
    except UsageError:
        log.info("sweep ended just in time", job=job_id)


def notify_finished(states: SweepStateStore, name: str, sweep: Sweep, summary: JobSummary) -> None:
    """Post the summary of a finished run to the sweep's address, if it has one."""
    if sweep.on_finish:
        message = {"sweep": name} | asdict(summary)
        secret = sweep.secret.get_secret_value()
        if error := post_webhook(sweep.on_finish, message, secret, summary.job):
            log.error("end of sweep not reported", sweep=name, error=error)
    states.write_notified(name)


def last_start(sweep: Sweep, now: datetime) -> datetime | None:
    """Return the latest scheduled start up to `now`."""
    if not sweep.schedule:
        return None
    after = _local(sweep, now).replace(microsecond=0) + timedelta(seconds=1)
    nearby = next(CronSim(sweep.schedule, after, reverse=True), None)
    return nearby and max(
        takewhile(lambda start: start.timestamp() <= now.timestamp(), _starts(sweep, nearby)),
        key=datetime.timestamp,
        default=None,
    )


def next_start(sweep: Sweep, now: datetime) -> datetime | None:
    """Return the first scheduled start after `now`."""
    if not sweep.schedule:
        return None
    return next(start for start in _starts(sweep, now) if start.timestamp() > now.timestamp())


def _starts(sweep: Sweep, moment: datetime) -> Iterator[datetime]:
    """Yield the scheduled starts in order, from shortly before `moment` on.

    Where an hour repeats, CronSim errs by that hour at its beginning and in reverse.
    """
    return CronSim(sweep.schedule, _local(sweep, moment.astimezone(UTC) - REPEATED))


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
