from __future__ import annotations

import socket
import threading

import pytest

from bgpipe.pipeline.broker.client import connect, public_address
from bgpipe.pipeline.errors import RedisUnavailable, UsageError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hunter2@h:1/2", "redis://h:1/2"),
        ("rediss://:hunter2@h", "rediss://h"),
        ("unix:///run/redis.sock?db=1&password=hunter2", "unix:///run/redis.sock"),
    ],
)
def test_an_address_is_shown_without_its_secret(url: str, shown: str) -> None:
    assert public_address(url) == shown


def test_a_wait_for_a_server_is_reported(redis_server_process) -> None:
    lines: list[str] = []
    with connect(redis_server_process.url, notify=lines.append) as client:
        redis_server_process.kill()
        restart = threading.Timer(2.0, redis_server_process.start)
        restart.start()
        client.get("key")
        restart.join()
        client.get("key")
    assert lines == [f"waiting for Redis at 127.0.0.1:{redis_server_process.port} ..."]


def test_a_read_only_server_is_unavailable_for_what_writes(redis_server_process) -> None:
    with connect(redis_server_process.url, retry_seconds=0.3) as client:
        client.replicaof("127.0.0.1", "9")
        assert client.get("key") is None
        with pytest.raises(RedisUnavailable, match="read only replica"):
            client.set("key", 1)


def test_a_server_whose_memory_is_full_is_unavailable_for_what_writes(redis_server_process) -> None:
    with connect(redis_server_process.url, retry_seconds=0.3) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(RedisUnavailable, match="maxmemory"):
            client.set("key", 1)


def test_a_server_that_is_away_at_the_start_is_reported_at_once_without_its_password() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refused
        port = closed.getsockname()[1]
        with pytest.raises(RedisUnavailable, match=f"redis://127.0.0.1:{port}/0") as caught:
            connect(f"redis://:{SECRET}@127.0.0.1:{port}/0")
    assert SECRET not in str(caught.value)


def test_what_is_no_address_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not a Redis URL: http://h"):
        connect("http://h")


def test_a_command_waits_for_a_server_that_restarts(redis_server_process) -> None:
    with connect(redis_server_process.url) as client:
        client.config_set("appendfsync", "always")
        client.set("kept", 1)
        redis_server_process.kill()
        restart = threading.Timer(0.7, redis_server_process.start)
        restart.start()
        assert client.get("kept") == b"1"
        restart.join()


def test_a_server_that_stays_away_is_an_error_after_the_retries(redis_server_process) -> None:
    with connect(redis_server_process.url, retry_seconds=0.3) as client:
        redis_server_process.kill()
        with pytest.raises(RedisUnavailable):
            client.get("key")


@pytest.mark.slow
def test_a_frozen_server_is_an_error_after_the_retries_too(redis_server_process) -> None:
    with connect(redis_server_process.url, retry_seconds=0.3) as client:
        redis_server_process.freeze()
        with pytest.raises(RedisUnavailable):
            client.get("key")
