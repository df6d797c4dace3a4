"""Keeps one worker process per device running until a signal arrives."""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import RedisUnavailable, Unavailable, UsageError
from bgpipe.pipeline.inference.devices import WorkerDevice
from bgpipe.pipeline.logging import EventLogger
from bgpipe.workers.lifecycle import GRACE, READY

if TYPE_CHECKING:
    from bgpipe.config.settings import WorkerSettings

POLL = 0.2
"""Seconds between two checks of the processes."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
MAX_DELAY = 60.0
"""Longest delay of a restart in seconds; a process that ran for as long resets the delay."""

log = EventLogger(__name__)


@dataclass
class DeviceWorker:
    """The worker process on `device`, and the time of its next start."""

    name: str
    device: WorkerDevice
    metrics: str = ""
    """HOST:PORT of its endpoint, or empty."""
    failed_starts: int = 0
    """Processes in a row that ended before they were ready."""
    _process: subprocess.Popen[bytes] | None = None
    _starts: int = 0
    _ready: bool = False
    _started: float = 0.0
    _due: float = 0.0
    _delay: float = 0.0

    def start(self) -> None:
        """Start a process if none runs and one is due."""
        if self._process is None and time.monotonic() >= self._due:
            self._started = time.monotonic()
            self._ready = False
            self._process = self._spawn(self._starts)
            self._starts += 1

    def _spawn(self, restarts: int) -> subprocess.Popen[bytes]:
        """Start a process, which ends when the pipe to its stdin does, after `restarts` others."""
        options = ["--name", self.name, "--restarts", str(restarts), "--metrics", self.metrics]
        return subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "bgpipe.workers", *options],
            env=os.environ | self.device.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # for READY
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which drains the worker
        )

    def check(self, first_delay: float) -> int | None:
        """Return the exit code if the process has ended since the last call, and plan a restart.

        The delay of a restart begins with `first_delay` and doubles each time.
        """
        if self._process is None:
            return None
        code, out = self._process.poll(), self._process.stdout
        if not self._ready and out and select.select([out], [], [], 0)[0]:
            self._ready = READY in os.read(out.fileno(), 4096)
        if code is None:
            return None
        self._clear(self._process)
        if self._ready:
            self.failed_starts = 0
        elif code != RedisUnavailable.exit_code:  # reachable when the supervisor started
            self.failed_starts += 1
        if not self._delay or time.monotonic() - self._started >= MAX_DELAY:
            self._delay = first_delay
        self._due = time.monotonic() + self._delay
        end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log.error("worker ended", name=self.name, end=end, restart_in=self._delay)
        self._delay = min(2 * self._delay, MAX_DELAY)
        return code

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def has_ended(self, seconds: float) -> bool:
        """Wait up to `seconds` for the process; return whether none runs any more."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._clear(self._process)
        return True

    def _clear(self, ended: subprocess.Popen[bytes]) -> None:
        ended.communicate()  # closes its pipes
        self._process = None


def make_workers(
    devices: Sequence[WorkerDevice], *, shared_host: bool, metrics: str = ""
) -> list[DeviceWorker]:
    """Return a worker per device, named like gpu0@host.

    `metrics` is the HOST:PORT of the first one; each next one takes the next port.
    `shared_host`: this machine may run other supervisors of the same cluster, as each command of the
    embedded mode does; names then get a random part.
    """
    suffix = f"-{secrets.token_hex(3)}" if shared_host else ""
    host, _, port = metrics.rpartition(":")
    seen: Counter[str] = Counter()
    workers: list[DeviceWorker] = []
    for device in devices:
        seen[device.label] += 1
        copy = f"-{seen[device.label]}" if seen[device.label] > 1 else ""
        name = f"{device.label}{copy}{suffix}@{socket.gethostname()}"
        address = f"{host}:{int(port) + len(workers)}" if metrics else ""
        workers.append(DeviceWorker(name, device, address))
    return workers


@dataclass
class Supervisor:
    """Runs in the main thread of its process; some of `workers` may have been started before."""

    workers: Sequence[DeviceWorker]
    settings: WorkerSettings
    # Plain values: a signal handler must not take the lock of an Event.
    _stopping: bool = False
    _signals: int = 0

    def run(self) -> int:
        """Keep every worker running until `stop` or a signal, then drain.

        Returns 0, the exit code of a worker whose configuration is wrong, or that of Unavailable if
        every worker repeatedly ends before it is ready.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        code = self._watch()
        self._drain()
        return code

    def stop(self) -> None:
        """Drain and end. Any thread may call."""
        self._stopping = True

    def _on_signal(self, *_: object) -> None:
        """Drain at the first signal, kill the workers at the second."""
        self._signals += 1
        self._stopping = True

    def _watch(self) -> int:
        while not self._stopping:
            for worker in self.workers:
                code = worker.check(self.settings.restart_delay)
                if code == UsageError.exit_code:  # another start would only repeat it
                    log.critical("worker cannot start: see its message above")
                    return code
                worker.start()
            # One that fails does not end the others: its device may be broken.
            if all(w.failed_starts >= self.settings.start_attempts for w in self.workers):
                log.critical("no worker gets ready, giving up: see their messages above")
                return Unavailable.exit_code
            time.sleep(POLL)
        return 0

    def _drain(self) -> None:
        """Let the workers finish the images in flight; kill those that exceed the limit."""
        limit = self.settings.drain_timeout + GRACE
        log.info("draining", limit=limit)
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        deadline = time.monotonic() + limit
        while self._signals < 2 and time.monotonic() < deadline:
            if all(worker.has_ended(POLL) for worker in self.workers):
                return
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
            worker.has_ended(GRACE)
