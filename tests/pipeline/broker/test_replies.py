"""Error replies of a real Redis, and of one behind a proxy that answers with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import product

import pytest
import redis

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.queue import make_app, publish, read_depth
from bgpipe.pipeline.errors import RedisUnavailable, StoreCorrupted
from bgpipe.pipeline.types import Item, JobId

from ...support.redis_proxy import RedisProxy, running_redis_proxy

WAITS = ("OOM", "READONLY", "MISCONF", "BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN")


@pytest.fixture
def proxy(redis_url: str) -> Iterator[RedisProxy]:
    with running_redis_proxy(redis_url) as proxy:
        yield proxy


@pytest.mark.parametrize("fault", [*WAITS, "cut-before", "cut-after", "cut-within"])
def test_a_command_waits_until_a_reply_that_means_wait_has_passed(proxy, fault) -> None:
    with connect(proxy.url) as client:
        proxy.plan.answer("SET", fault, 2)
        assert client.set("key", 1)
        assert proxy.plan.met["SET", fault] == 2


@pytest.mark.parametrize("fault", ["OOM", "LOADING", "cut-before", "cut-after"])
def test_a_pipeline_waits_and_fails_as_a_command_does(proxy, fault) -> None:
    with connect(proxy.url) as client:
        proxy.plan.answer("SET", fault, 2)
        assert client.run_pipeline(lambda pipeline: pipeline.set("key", 1)) == [True]
        assert proxy.plan.met["SET", fault] == 2
        client.retry_seconds = 0.3
        proxy.plan.answer("SET", fault)
        with pytest.raises(RedisUnavailable, match=proxy.url):
            client.run_pipeline(lambda pipeline: pipeline.set("key", 1))


@pytest.mark.parametrize("fault", WAITS)
def test_a_reply_that_means_wait_and_stays_says_what_helps(proxy, fault) -> None:
    with connect(proxy.url, retry_seconds=0.3) as client:
        proxy.plan.answer("SET", fault)
        with pytest.raises(RedisUnavailable, match=f"refuses a command: {proxy.url}: {fault} .*: "):
            client.set("key", 1)


@pytest.mark.parametrize("fault", ["LOADING", "BUSY", "MASTERDOWN", "cut-before"])
def test_a_start_waits_for_a_server_that_is_there(proxy, fault) -> None:
    proxy.plan.answer("PING", fault, 1)
    connect(proxy.url).close()
    assert proxy.plan.met["PING", fault] == 1


def test_a_right_that_is_missing_is_an_error_at_once_and_named(redis_url) -> None:
    with redis.Redis.from_url(redis_url) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pass", "~*", "+@all", "-evalsha")
    began = time.monotonic()
    with (
        connect(redis_url.replace("//", "//reader:pass@")) as client,
        pytest.raises(RedisUnavailable, match=r"ACL SETUSER NAME \+evalsha"),
    ):
        read_depth(client, "bgpipe")
    assert time.monotonic() - began < 5


def test_a_script_that_the_server_forgets_again_and_again_runs(proxy) -> None:
    with connect(proxy.url) as client:
        proxy.plan.answer("EVALSHA", "NOSCRIPT")
        assert [read_depth(client, "bgpipe") for _ in range(3)] == [0, 0, 0]


def test_a_value_that_a_script_cannot_use_is_damage(redis_url) -> None:
    with connect(redis_url) as client:
        client.set("bgpipe", "no list")
        with pytest.raises(StoreCorrupted, match="damaged: bgpipe or one below it: WRONGTYPE"):
            read_depth(client, "bgpipe")
        client.set("number", "none")
        with pytest.raises(StoreCorrupted, match="damaged: number or"):
            client.incr("number")


def test_a_command_that_the_server_does_not_know_is_no_damage(redis_url) -> None:
    with connect(redis_url) as client, pytest.raises(RedisUnavailable, match="unknown command"):
        client.execute_command("JSON.GET", "key")


def test_a_command_finds_the_primary_after_a_failover_behind_its_address(
    redis_server_process,
) -> None:
    """The connection that is open goes to the former primary for ever."""
    with connect(redis_server_process.url) as client, connect(redis_server_process.url) as other:
        first = client.client_id()
        other.replicaof("127.0.0.1", "9")
        threading.Timer(0.6, lambda: other.replicaof("NO", "ONE")).start()
        assert client.set("key", 1)
        assert client.client_id() != first


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        *product(["LPUSH", "SADD"], ["OOM", "READONLY", "BUSY"]),
        pytest.param("PING", "BUSY", marks=pytest.mark.slow),
    ],
)
def test_messages_are_sent_once_a_reply_that_means_wait_has_passed(proxy, command, fault) -> None:
    settings = load_settings()
    with make_app(settings, proxy.url) as app:
        proxy.plan.answer(command, fault, 2)
        publish(app, JobId("job"), [Item(7, "a.jpg", "a.png", "7-1")], settings.queue.name)
    with redis.Redis.from_url(proxy.url) as client:
        assert client.llen(settings.queue.name) >= 1


def test_messages_that_may_not_be_sent_are_an_error_at_once(proxy) -> None:
    settings = load_settings()
    proxy.plan.answer("LPUSH", "NOPERM")
    began = time.monotonic()
    with make_app(settings, proxy.url) as app, pytest.raises(RedisUnavailable, match="NOPERM"):
        publish(app, JobId("job"), [Item(7, "a.jpg", "a.png", "7-1")], settings.queue.name)
    assert time.monotonic() - began < 5


def test_a_server_without_tls_is_named_as_such_at_once(redis_url) -> None:
    began = time.monotonic()
    with pytest.raises(RedisUnavailable, match="the server replies without TLS"):
        connect(redis_url.replace("redis://", "rediss://"))
    assert time.monotonic() - began < 2


@pytest.mark.slow
def test_a_server_that_does_not_reply_is_not_taken_for_one_without_tls(
    redis_server_process,
) -> None:
    redis_server_process.freeze()
    with pytest.raises(RedisUnavailable, match="check that a server with TLS runs there"):
        connect(redis_server_process.url.replace("redis://", "rediss://"))
