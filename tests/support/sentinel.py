"""A primary, a replica and a Sentinel, all real."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from .ports import await_listening, free_port
from .redis_server import RedisServer

PASSWORD = "of the servers"
MASTER = "bgpipe"
CONFIGURATION = """\
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {master} 127.0.0.1 {primary} 1
sentinel auth-pass {master} "{password}"
sentinel down-after-milliseconds {master} 3000
sentinel failover-timeout {master} 20000
"""


@dataclass(frozen=True, slots=True)
class WatchedServers:
    primary: RedisServer
    replica: RedisServer
    url: str
    """For BGPIPE_REDIS_URL."""

    def make_replica_lag(self) -> None:
        """Cut the replication: from now on the replica gets nothing."""
        with client_of(self.replica) as replica, client_of(self.primary) as primary:
            replica.config_set("masterauth", "wrong")
            primary.execute_command("CLIENT", "KILL", "TYPE", "replica")


def client_of(server: RedisServer) -> redis.Redis:
    """Return a client that connects again: a server that is promoted closes its connections."""
    return redis.Redis.from_url(server.url, retry=Retry(ConstantBackoff(0.1), 10))


@contextmanager
def watched_servers(folder: Path) -> Iterator[WatchedServers]:
    program = shutil.which("redis-sentinel")
    if program is None and os.environ.get("CI") == "true":
        pytest.fail("no redis-sentinel on the PATH")
    if program is None:
        pytest.skip("no redis-sentinel on the PATH")
    login = ("--masterauth", PASSWORD)
    with ExitStack() as stack:
        for name in ("primary", "replica"):
            (folder / name).mkdir()
        primary = RedisServer(folder / "primary", *login, password=PASSWORD)
        follow = ("--replicaof", f"127.0.0.1 {primary.port}")
        replica = RedisServer(folder / "replica", *login, *follow, password=PASSWORD)
        for server in (primary, replica):
            server.start()
            stack.callback(server.kill)
        port, file = free_port(), folder / "sentinel.conf"
        file.write_text(
            CONFIGURATION.format(
                port=port, folder=folder, master=MASTER, primary=primary.port, password=PASSWORD
            )
        )
        process = subprocess.Popen([program, file], stdout=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        await_listening(port)
        sentinel = stack.enter_context(redis.Redis(port=port))
        _until(lambda: _is_online(sentinel))
        login_text = PASSWORD.replace(" ", "%20")
        silent = free_port()  # a Sentinel that is down
        hosts = f"127.0.0.1:{silent},127.0.0.1:{port}"
        yield WatchedServers(
            primary, replica, f"sentinel://:{login_text}@{hosts}/0?master={MASTER}"
        )


def _is_online(sentinel: redis.Redis) -> bool:
    replicas: list[dict[str, Any]] = sentinel.sentinel_slaves(MASTER)
    return [each["master-link-status"] for each in replicas] == ["ok"]


def _until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
