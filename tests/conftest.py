"""Options and fixtures of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from .support.redis_server import RedisServer, running_redis
from .support.s3_server import FaultProxy, S3Server, running_proxy, running_s3
from .support.source_tree import ROOT

# One thread per test process, because they share the cores. torch reads both when it is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # before any module imports Triton

LONG = (
    "tests/e2e/test_submit.py",
    "tests/e2e/test_sources.py",
    "tests/workers/test_supervisor.py",
    "tests/e2e/test_s3.py",
    "tests/e2e/",
    "tests/workers/",
    "tests/pipeline/http/",
    "tests/frozen/",
    "tests/pipeline/api/",
    "tests/infra/",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--chaos", action="store_true", help="also kill processes and servers")


def pytest_configure() -> None:
    """Undo what a shell does to its background jobs: their children would ignore an interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_place_in_run)
    for item in items:
        for name in ("slow", "chaos"):
            if name in item.keywords and not config.getoption(f"--{name}"):
                item.add_marker(pytest.mark.skip(reason=f"needs --{name}"))


def _place_in_run(item: pytest.Item) -> int:
    """Long modules first, so that no process is left alone with one at the end of a run."""
    return next((at for at, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs and photos beside the checkout; the public clone has none."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder of reference data beside the checkout")
    return folder


@pytest.fixture
def redis_server_process(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may kill and start it again."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def _shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(_shared_redis: RedisServer) -> str:
    """The address of a real and empty Redis server."""
    with redis.Redis.from_url(_shared_redis.url) as client:
        client.flushall()
    return _shared_redis.url


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server at TEST_S3_ENDPOINT_URL with the environment's credentials, or one of our own."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def aws(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user of the server, for clients that this process makes."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def fault_proxy(s3: S3Server, tmp_path: Path) -> Iterator[Callable[..., FaultProxy]]:
    """`fault_proxy(*options)`: a running proxy."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(running_proxy(s3.url, tmp_path, options))
