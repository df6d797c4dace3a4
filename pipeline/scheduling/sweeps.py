"""The schedule of the sweeps: starts, retries, deadlines and notifications, in the dispatcher.

A run is an ordinary job. It lists source and target anew, so a run that its deadline stopped needs no
bookmark: the next one finds the finished images up to date and continues with the rest.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Protocol

from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.errors import Unavailable, UsageError
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.scheduling.cron import deadline_of, last_start
from bgpipe.pipeline.scheduling.run_sweep import notify_finished, stop_run
from bgpipe.pipeline.scheduling.sweep_state import SweepState, SweepStateStore
from bgpipe.pipeline.types import OPEN_STATES, JobId, JobState, JobSummary

MAX_RETRY_SECONDS = 3600.0

log = logging.getLogger(__name__)


class SweepProcess(Protocol):
    """A process that lists a run; see `run_sweep`."""

    def poll(self) -> int | None: ...


def start_process(name: str, scheduled: datetime) -> SweepProcess:
    """Start the run that was scheduled for this time."""
    command = [sys.executable, "-m", "bgpipe.pipeline.scheduling.run_sweep"]
    return subprocess.Popen([*command, name, scheduled.isoformat()])  # noqa: S603  # names are checked


class SweepScheduler:
    """Starts, stops and reports sweeps. Call `step` repeatedly, in one process only."""

    def __init__(
        self,
        sweeps: Mapping[str, Sweep],
        client: RedisClient,
        jobs: JobStore,
        retry_seconds: float,
        start: Callable[[str, datetime], SweepProcess] = start_process,
    ) -> None:
        """`retry_seconds`: pause after the first failed start; it doubles with each further one."""
        self._sweeps = sweeps
        self._client = client
        self._states = SweepStateStore(client)
        self._jobs = jobs
        self._retry_seconds = retry_seconds
        self._start = start
        self._processes: dict[str, SweepProcess] = {}
        self._notifications: dict[str, Thread] = {}

    def step(self) -> None:
        """Advance every sweep once."""
        now = datetime.now(UTC)
        for name, sweep in self._sweeps.items():
            state = self._states.read(name, now)
            summary = self._summary(state.job)
            is_open = summary is not None and summary.state in OPEN_STATES
            if is_open and 0 < state.deadline <= now.timestamp():
                stop_run(self._jobs, name, state.job)
            elif summary and summary.state is JobState.FINISHED and not state.notified:
                self._notify(name, sweep, summary)
            if self._is_starting(name, state, now):
                continue
            if summary and is_open and not self._is_abandoned(summary):
                # A start that becomes due meanwhile follows when this run has ended.
                self._states.clear_retry(name)
            else:
                self._start_if_due(name, sweep, state, summary, now)

    def _start_if_due(
        self, name: str, sweep: Sweep, state: SweepState, summary: JobSummary | None, now: datetime
    ) -> None:
        scheduled = last_start(sweep, now)
        if scheduled is None:
            return
        is_new = scheduled.timestamp() > max(state.first_seen, state.start)
        if is_new or 0 < state.retry_at <= now.timestamp():
            self._start_run(name, sweep, scheduled, now, is_new=is_new)
        elif not state.retry_at and summary and summary.state is JobState.LISTING:
            self._schedule_retry(name, state, now, "its listing was abandoned")

    def _start_run(
        self, name: str, sweep: Sweep, scheduled: datetime, now: datetime, *, is_new: bool
    ) -> None:
        fields = {"sweep": name, "due": scheduled.isoformat()}
        deadline = deadline_of(sweep, scheduled)
        if deadline is None or now < deadline:
            log.info("sweep starts", extra={"fields": fields})
            self._processes[name] = self._start(name, scheduled)
        elif not is_new:
            log.error("sweep did not start before its deadline", extra={"fields": fields})
        # After the start: a dispatcher that dies in between starts twice, and the job store refuses
        # the second job.
        if is_new:
            self._states.write_start(name, scheduled)
        else:
            self._states.clear_retry(name)

    def _is_abandoned(self, summary: JobSummary) -> bool:
        """Whether the process that listed the run is gone; a listed run is the dispatcher's."""
        lease = keys.lease_of_job(summary.job)
        return summary.state is JobState.LISTING and not is_held(self._client, lease)

    def _schedule_retry(self, name: str, state: SweepState, now: datetime, reason: str) -> None:
        failures = state.failures + 1
        delay = min(self._retry_seconds * 2.0**state.failures, MAX_RETRY_SECONDS)
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
            return self._jobs.summary(job_id) if job_id else None
        except UsageError:
            return None  # forgotten
