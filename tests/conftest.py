"""What every test may ask for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from bgpipe.pipeline.embedded import server_binary
from bgpipe.pipeline.errors import RedisUnavailable

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--chaos", action="store_true", help="also kill processes and servers")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for name in ("slow", "chaos"):
            if name in item.keywords and not config.getoption(f"--{name}"):
                item.add_marker(pytest.mark.skip(reason=f"needs --{name}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and photos beside the checkout; the public clone has none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder of reference data beside the checkout")
    return folder


class RedisServer:
    """A real server of the tests on a free port of the loopback, its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --appendfsync everysec"
        self._process = subprocess.Popen(
            [server_binary(), *options.split(), "--save", "", "--dir", self._folder],
            stdout=subprocess.DEVNULL,
        )
        self._await_answer()

    def kill(self) -> None:
        """SIGKILL; `start` brings it back with what it had written."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it accepts connections and never answers."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def _await_answer(self) -> None:
        with redis.Redis.from_url(self.url, retry=Retry(ConstantBackoff(0.05), 200)) as client:
            client.ping()


@pytest.fixture
def redis_server_process(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may kill and start it again."""
    yield from _running(tmp_path)


@pytest.fixture(scope="session")
def _shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    yield from _running(tmp_path_factory.mktemp("redis"))


@pytest.fixture
def redis_url(_shared_redis: RedisServer) -> str:
    """The address of a real and empty Redis server."""
    with redis.Redis.from_url(_shared_redis.url) as client:
        client.flushall()
    return _shared_redis.url


def _running(folder: Path) -> Iterator[RedisServer]:
    _require_redis()
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()


def _require_redis() -> None:
    try:
        server_binary()
    except RedisUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
