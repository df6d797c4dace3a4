"""The schedule of the sweeps: starts, retries, deadlines and notifications, in the dispatcher.

A run is an ordinary job. It lists source and target anew, so a run that its deadline stopped needs no
bookmark: the next one finds the finished images up to date and continues with the rest.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Thread

from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.errors import Unavailable, UsageError
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.scheduling.run_sweep import notify_finished, stop_run
from bgpipe.pipeline.scheduling.sweep_state import (
    SweepState,
    SweepStateStore,
    deadline_of,
    last_start,
)
from bgpipe.pipeline.types import OPEN_STATES, JobId, JobState, JobSummary

MAX_RETRY_SECONDS = 3600.0

log = logging.getLogger(__name__)


def start_process(name: str, scheduled: datetime) -> subprocess.Popen[bytes]:
    """Start the process that lists the run scheduled for this time; see `run_sweep`."""
    command = [sys.executable, "-m", "bgpipe.pipeline.scheduling.run_sweep"]
    return subprocess.Popen([*command, name, scheduled.isoformat()])  # noqa: S603  # names are checked


@dataclass
class SweepScheduler:
    """Starts, stops and reports sweeps. Call `step` repeatedly, in one process only."""

    sweeps: Mapping[str, Sweep]
    client: RedisClient
    jobs: JobStore
    retry_seconds: float
    """Pause after the first failed start; it doubles with each further one."""
    start: Callable[[str, datetime], subprocess.Popen[bytes]] = start_process
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _notifications: dict[str, Thread] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._states = SweepStateStore(self.client)

    def step(self) -> None:
        """Advance every sweep once."""
        now = datetime.now(UTC)
        for name, sweep in self.sweeps.items():
            state = self._states.read(name, now)
            summary = self._summary(state.job)
            is_open = summary is not None and summary.state in OPEN_STATES
            if is_open and 0 < state.deadline <= now.timestamp():
                stop_run(self.jobs, name, state.job)
            elif summary and summary.state is JobState.FINISHED and not state.notified:
                self._notify(name, sweep, summary)
            if self._is_starting(name, state, now):
                continue
            # The process that lists a run holds the lease; a listed run is the dispatcher's.
            lease = keys.lease_of_job(state.job)
            is_listing = summary is not None and summary.state is JobState.LISTING
            if is_open and (not is_listing or is_held(self.client, lease)):
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
        if is_new or 0 < state.retry_at <= now.timestamp():
            self._start_run(name, sweep, scheduled, now, is_new=is_new)
        elif is_abandoned and not state.retry_at:
            self._schedule_retry(name, state, now, "its listing was abandoned")

    def _start_run(
        self, name: str, sweep: Sweep, scheduled: datetime, now: datetime, *, is_new: bool
    ) -> None:
        fields = {"sweep": name, "due": scheduled.isoformat()}
        deadline = deadline_of(sweep, scheduled)
        if deadline is None or now < deadline:
            log.info("sweep starts", extra={"fields": fields})
            self._processes[name] = self.start(name, scheduled)
        elif not is_new:
            log.error("sweep did not start before its deadline", extra={"fields": fields})
        # After the start: a dispatcher that dies in between starts twice, and the job store refuses
        # the second job.
        if is_new:
            self._states.write_start(name, scheduled)
        else:
            self._states.clear_retry(name)

    def _schedule_retry(self, name: str, state: SweepState, now: datetime, reason: str) -> None:
        failures = state.failures + 1
        delay = min(self.retry_seconds * 2.0**state.failures, MAX_RETRY_SECONDS)
        self._states.write_failure(name, failures, now + timedelta(seconds=delay))
        fields = {"sweep": name, "reason": reason, "failures": failures, "again_in": delay}
        log.error("sweep did not start", extra={"fields": fields})

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
            log.error("sweep did not start", extra={"fields": {"sweep": name, "exit": code}})
        return False

    def _summary(self, job_id: JobId) -> JobSummary | None:
        try:
            return self.jobs.summary(job_id) if job_id else None
        except UsageError:
            return None  # forgotten
