"""Addresses of primaries behind Sentinel; tests/e2e/test_failover.py has real ones."""

from __future__ import annotations

import socket
import time

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker.client import connect, public_address
from bgpipe.pipeline.broker.queue import make_app
from bgpipe.pipeline.broker.sentinel import broker_url, make_pool
from bgpipe.pipeline.errors import RedisUnavailable, UsageError
from bgpipe.pipeline.logging import mask_passwords

WHOLE = "sentinel://bg%40pipe:p%20w@a:1,b/3?master=shop"


def test_redis_py_gets_every_sentinel_and_the_login_of_the_servers() -> None:
    pool = make_pool(WHOLE, 1.0, {})
    hosts = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(host["host"], host["port"]) for host in hosts] == [("a", 1), ("b", 26379)]
    assert {host.get("password") for host in hosts} == {None}
    login = {name: pool.connection_kwargs[name] for name in ("username", "password", "db")}
    assert login == {"username": "bg@pipe", "password": "p w", "db": 3}
    assert pool.service_name == "shop"


@pytest.mark.parametrize(
    ("url", "expected", "master"),
    [
        ("sentinel://a", "sentinel://a:26379/0", "mymaster"),
        (WHOLE, "sentinel://bg%40pipe:p%20w@a:1/3;sentinel://bg%40pipe:p%20w@b:26379/3", "shop"),
    ],
)
def test_kombu_gets_a_url_for_each_sentinel(url: str, expected: str, master: str) -> None:
    assert broker_url(url) == expected
    with make_app(load_settings(), url) as app:
        assert app.conf.broker_url == expected
        assert app.conf.broker_transport_options["master_name"] == master
        assert "visibility_timeout" in app.conf.broker_transport_options


def test_no_password_is_shown() -> None:
    assert public_address(WHOLE) == "sentinel://a:1,b/3"
    assert "p%20w" not in mask_passwords(WHOLE)


def test_a_wrong_address_is_a_usage_error() -> None:
    for url in ("sentinel://a:many", "sentinel://a/first"):
        with pytest.raises(UsageError, match="not a Redis URL: sentinel://"):
            connect(url)


def test_sentinels_that_are_down_are_reported_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(RedisUnavailable, match=host):
            connect(f"sentinel://{host},{host}")
    assert time.monotonic() - start < 4  # redis-py's default: ten seconds and more
