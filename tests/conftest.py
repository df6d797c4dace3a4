"""What every test may ask for."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from botocore.config import Config
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from bgpipe.pipeline.broker.embedded import find_server
from bgpipe.pipeline.errors import RedisUnavailable

ROOT = Path(__file__).resolve().parent.parent
# By default a request to a server that does not answer would take five minutes, and the reason with it.
BOUNDED = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 3})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--chaos", action="store_true", help="also kill processes and servers")


def pytest_configure() -> None:
    """Undo what a shell does to its background jobs: their children would ignore an interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = f"--port {self.port} --bind 127.0.0.1 --appendonly yes --appendfsync everysec"
        self._process = subprocess.Popen(
            [find_server(), *options.split(), "--save", "", "--dir", self._folder],
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
    require_redis()
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()


def require_redis() -> None:
    try:
        find_server()
    except RedisUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


def require_program(name: str) -> str:
    """The path of a program that infra/scripts/test installs."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"not on the PATH: {name}")
    if found is None:
        pytest.skip(f"not on the PATH: {name}")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server that speaks S3, and what a user's environment says to reach it."""

    url: str
    environment: dict[str, str]
    client: Any = field(repr=False)

    def make_bucket(self) -> str:
        """The address of a new bucket."""
        name = f"bgpipe-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def put(self, location: str, data: bytes) -> None:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def get(self, location: str) -> dict[str, Any]:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        found: dict[str, Any] = self.client.get_object(Bucket=bucket, Key=key)
        return found

    def delete(self, location: str) -> None:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        self.client.delete_object(Bucket=bucket, Key=key)

    def keys(self, location: str) -> list[str]:
        """Every key of a bucket, hidden or not."""
        pages = self.client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=location.removeprefix("s3://"))
        return [entry["Key"] for page in found for entry in page.get("Contents", ())]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server at TEST_S3_ENDPOINT_URL with the environment's credentials, or one of our own."""
    given = os.environ.get("TEST_S3_ENDPOINT_URL")
    if given:
        yield _s3_server(given, {n: v for n, v in os.environ.items() if n.startswith("AWS_")})
        return
    pytest.importorskip("moto.server")
    port = free_port()
    with (tmp_path_factory.mktemp("s3") / "requests.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log
        )
        try:
            await_listening(port)
            account = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "secret"}
            yield _s3_server(
                f"http://127.0.0.1:{port}", account | {"AWS_DEFAULT_REGION": "us-east-1"}
            )
        finally:
            process.kill()
            process.wait()


def await_listening(port: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens: {port}"
            time.sleep(0.1)
        else:
            return


def _s3_server(url: str, account: dict[str, str]) -> S3Server:
    environment = account | {"AWS_ENDPOINT_URL": url}
    client = boto3.Session(
        aws_access_key_id=account["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=account["AWS_SECRET_ACCESS_KEY"],
        region_name=account.get("AWS_DEFAULT_REGION", "us-east-1"),
    ).client("s3", endpoint_url=url, config=BOUNDED)
    return S3Server(url, environment, client)


@pytest.fixture
def aws(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user of the server, for clients that this process makes."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@dataclass(frozen=True, slots=True)
class FaultProxy:
    """A proxy before the server; `log` has a line for each request (tests/support/fault_proxy.py)."""

    url: str
    log: Path

    def fates(self) -> list[str]:
        """What became of each request so far."""
        return [line.split(" ")[0] for line in self.log.read_text().splitlines()]


@pytest.fixture
def fault_proxy(s3: S3Server, tmp_path: Path) -> Iterator[Callable[..., FaultProxy]]:
    """`fault_proxy(*options)`: a running proxy."""
    with ExitStack() as stack:
        yield lambda *options: stack.enter_context(_proxy(s3.url, tmp_path, options))


@contextmanager
def _proxy(upstream: str, folder: Path, options: tuple[str, ...]) -> Iterator[FaultProxy]:
    port = free_port()
    path = folder / f"proxy-{port}.log"
    script = Path(__file__).with_name("support") / "fault_proxy.py"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, script, "--port", str(port), "--upstream", upstream, *options],
            stdout=log,
        )
        try:
            await_listening(port)
            yield FaultProxy(f"http://127.0.0.1:{port}", path)
        finally:
            process.kill()
            process.wait()
