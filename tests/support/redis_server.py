"""A real Redis server for the tests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from bgpipe.pipeline.broker.embedded import find_server
from bgpipe.pipeline.errors import RedisUnavailable

from .ports import free_port


class RedisServer:
    """A real server of the tests on a free port of the loopback, its data in `folder`."""

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        self._options = [*options, *(["--requirepass", password] if password else ())]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --appendfsync everysec"
        self._process = subprocess.Popen(
            [find_server(), *options.split(), "--save", "", "--dir", self._folder, *self._options],
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

    def thaw(self) -> None:
        """SIGCONT: it answers again."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def _await_answer(self) -> None:
        with redis.Redis.from_url(self.url, retry=Retry(ConstantBackoff(0.05), 200)) as client:
            client.ping()


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    require_redis()
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def require_redis() -> None:
    try:
        find_server()
    except RedisUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
