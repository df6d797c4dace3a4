"""One worker process per device, kept alive until told to stop."""

from __future__ import annotations

import logging
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
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from bgpipe.pipeline.errors import RedisUnavailable, Unavailable, UsageError
from bgpipe.pipeline.inference.devices import WorkerDevice
from bgpipe.workers.lifecycle import GRACE, READY

if TYPE_CHECKING:
    from bgpipe.config.settings import WorkerSettings

POLL = 0.2
"""Seconds between two looks at the processes."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
LONGEST_DELAY = 60.0
"""Seconds before a restart at most; a process that lived this long starts from the first delay."""

log = logging.getLogger(__name__)


class WorkerProcess(Protocol):
    """What can be started, and again."""

    @property
    def name(self) -> str: ...

    def start(self, restarts: int) -> subprocess.Popen[bytes]: ...


@dataclass(frozen=True, slots=True)
class DeviceWorker:
    """What one worker process is started with."""

    name: str
    device: WorkerDevice
    metrics: str = ""
    """HOST:PORT at which it tells of itself. Empty: nowhere."""

    def start(self, restarts: int) -> subprocess.Popen[bytes]:
        """Start the process, which ends itself when the pipe to its stdin ends with this one.

        `restarts` processes were started in its place before.
        """
        told = ["--restarts", str(restarts), "--metrics", self.metrics]
        return subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "bgpipe.workers.start", "--name", self.name, *told],
            env=os.environ | self.device.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # for READY
            start_new_session=True,  # Ctrl-C is the supervisor's, which lets the worker drain
        )


@dataclass(frozen=True, slots=True)
class StartedWorker:
    """A worker whose first process runs before its supervisor has read the settings."""

    worker: WorkerProcess
    process: subprocess.Popen[bytes]

    @property
    def name(self) -> str:
        return self.worker.name

    def start(self, restarts: int) -> subprocess.Popen[bytes]:
        """Return the process that runs, or start its successor."""
        return self.worker.start(restarts) if restarts else self.process


def make_workers(
    devices: Sequence[WorkerDevice], *, shared_host: bool, metrics: str = ""
) -> list[DeviceWorker]:
    """A worker per device, named like gpu0@host.

    `metrics` is the HOST:PORT at which the first one tells of itself; each next one takes the next
    port.

    `shared_host`: other supervisors of the same cluster may run on this machine, as every command
    in the embedded mode has its own; a random part keeps the names apart.
    """
    host = socket.gethostname()
    mark = f"-{secrets.token_hex(3)}" if shared_host else ""
    seen: Counter[str] = Counter()
    named: list[DeviceWorker] = []
    for device in devices:
        seen[device.label] += 1
        copy = f"-{seen[device.label]}" if seen[device.label] > 1 else ""
        place = next_address(metrics, len(named)) if metrics else ""
        named.append(DeviceWorker(f"{device.label}{copy}{mark}@{host}", device, place))
    return named


class WorkerSlot:
    """One worker's place: the process in it, and when a lost one is replaced."""

    def __init__(self, worker: WorkerProcess, first_delay: float) -> None:
        self.worker = worker
        self._first_delay = first_delay
        self._delay = first_delay
        self._process: subprocess.Popen[bytes] | None = None
        self._due = time.monotonic()
        self._started = self._due
        self._ready = False
        self._starts = 0
        self.failed_starts = 0
        """Processes in a row that ended before they were ready."""

    def start(self) -> None:
        """Start a process if there is none and its time has come."""
        if self._process is None and time.monotonic() >= self._due:
            self._started = time.monotonic()
            self._ready = False
            self._process = self.worker.start(self._starts)
            self._starts += 1

    def check(self) -> int | None:
        """The exit code of a process that has ended since the last look; plans its successor."""
        if self._process is None:
            return None
        ended = self._process.poll() is not None
        self._ready = self._ready or _says_ready(self._process)
        if not ended:
            return None
        code = self._clear(self._process)
        self._count(code)
        if time.monotonic() - self._started >= LONGEST_DELAY:
            self._delay = self._first_delay
        self._due = time.monotonic() + self._delay
        fields = {"name": self.worker.name, "end": _describe_exit(code), "restart_in": self._delay}
        log.error("worker ended", extra={"fields": fields})
        self._delay = min(2 * self._delay, LONGEST_DELAY)
        return code

    def _count(self, code: int) -> None:
        """Redis away is no reason to give up: it was there when the supervisor started."""
        if self._ready:
            self.failed_starts = 0
        elif code != RedisUnavailable.exit_code:
            self.failed_starts += 1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def has_ended(self, seconds: float) -> bool:
        """Whether no process is left, after waiting for it."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._clear(self._process)
        return True

    def _clear(self, ended: subprocess.Popen[bytes]) -> int:
        """Leave the post empty, close the pipe to its process, and return the exit code."""
        self._process = None
        ended.communicate()
        return ended.returncode


class Supervisor:
    """Runs in the main thread of its process."""

    def __init__(self, workers: Sequence[WorkerProcess], settings: WorkerSettings) -> None:
        self._posts = [WorkerSlot(worker, settings.restart_delay) for worker in workers]
        self._start_attempts = settings.start_attempts
        self._drain_limit = settings.drain_timeout + GRACE
        # Plain flags: a signal handler must not take the lock of an Event.
        self._stopping = False
        self._signalled = False
        self._hurried = False

    def run(self) -> int:
        """Keep every post filled until told to stop, then drain.

        Returns the exit code: 0, that of a worker which cannot start as it is configured, or
        Unavailable's if one ends again and again before it is ready.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        code = self._watch()
        self._drain()
        return code

    def stop(self) -> None:
        """Drain and leave. Any thread may call."""
        self._stopping = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Drain at the first signal, leave at once at the second."""
        del number, frame
        self._hurried = self._signalled
        self._signalled = self._stopping = True

    def _watch(self) -> int:
        while not self._stopping:
            for post in self._posts:
                code = post.check()
                if code == UsageError.exit_code:  # another start would only repeat it
                    log.critical("worker cannot start: see its message above")
                    return code
                if post.failed_starts >= self._start_attempts:
                    fields = {"name": post.worker.name, "attempts": post.failed_starts}
                    log.critical(
                        "worker ends before it is ready, giving up: see its messages above",
                        extra={"fields": fields},
                    )
                    return Unavailable.exit_code
                post.start()
            time.sleep(POLL)
        return 0

    def _drain(self) -> None:
        """Let the workers finish what is in flight, and end those that do not in time."""
        log.info("draining", extra={"fields": {"limit": self._drain_limit}})
        for post in self._posts:
            post.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._drain_limit
        while not self._hurried and time.monotonic() < deadline:
            if all(post.has_ended(POLL) for post in self._posts):
                return
        for post in self._posts:
            post.signal(signal.SIGKILL)
            post.has_ended(GRACE)


def next_address(address: str, places: int) -> str:
    """The HOST:PORT that is `places` ports behind `address`."""
    from bgpipe.config.settings import parse_address

    host, port = parse_address(address)
    return f"{host}:{port + places}"


def _says_ready(process: subprocess.Popen[bytes]) -> bool:
    if process.stdout is None:
        return False
    said, _, _ = select.select([process.stdout], [], [], 0)
    return bool(said) and READY in os.read(process.stdout.fileno(), 4096)


def _describe_exit(code: int) -> str:
    """How a process ended, for people."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
