"""The Redis server and the worker of a single command.

The commands of one user share a server. Three locks coordinate them; the kernel opens the locks of
a process that dies:

    start.lock    exclusive, briefly: the process that starts or ends the server
    users.lock    shared: every command that uses the server, and every worker; the last one ends it
    server.lock   exclusive: the server itself (bgpipe.pipeline.broker.server_process)
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bgpipe.pipeline.broker import server_process
from bgpipe.pipeline.broker.server_process import ServerProcess, make_private, try_lock
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.processes import ChildProcess

WORKER = (sys.executable, "-m", "bgpipe.workers")
WORKER_GRACE = 10.0
"""Seconds a worker gets beyond its own limit for draining."""


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Yield the URL of the server whose data are in `folder`; it runs until the block ends.

    RedisUnavailable if no server is installed, or it does not start.
    """
    home = _home(folder)
    with (home / "users.lock").open("ab") as users:
        with _locked(home / "start.lock"):
            server = ServerProcess(home)
            fcntl.flock(users, fcntl.LOCK_SH)
            server.start()
        try:
            yield server.url
        finally:
            release_server(folder, users)


def release_server(folder: Path, users: BinaryIO) -> None:
    """End the server in `folder` unless another process uses it; `users` has this process's lock."""
    home = _home(folder)
    with _locked(home / "start.lock"):
        if try_lock(users):
            ServerProcess(home).stop()


@contextmanager
def worker(redis_url: str, folder: Path, drain_timeout: float) -> Iterator[ChildProcess]:
    """Run a worker for this command's jobs; it ends with the command, even if that is killed.

    Its log is `worker.log` in `folder`. It holds a lock of users.lock of its own, because it may
    outlive the command by its last steps.
    """
    folder = make_private(folder.absolute())
    with (_home(folder) / "users.lock").open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        lock = users.fileno()
        command = [*WORKER, "--stop-with-stdin", "--server", str(folder), str(lock)]
        environment = {"BGPIPE_REDIS_URL": redis_url}
        child = ChildProcess(command, environment, folder / "worker.log", inherited=[lock])
    try:
        yield child
    finally:
        child.stop(drain_timeout + WORKER_GRACE)


def _home(folder: Path) -> Path:
    return make_private(folder.absolute() / "redis")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` exclusively; RedisUnavailable if another command keeps it too long."""
    deadline = time.monotonic() + server_process.START_SECONDS + server_process.STOP_SECONDS
    with path.open("ab") as file:
        while not try_lock(file):
            if time.monotonic() > deadline:
                raise RedisUnavailable(
                    f"another command has been starting or ending the Redis server for too long: "
                    f"{path}: end that command"
                )
            time.sleep(server_process.PAUSE)
        yield
