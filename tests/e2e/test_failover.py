"""The primary of two Redis servers dies while its replica lags, and Sentinel promotes the replica."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.queue import make_app
from bgpipe.pipeline.jobs.store import JobStore

from ..support.redis_server import RedisServer
from ..support.sentinel import PASSWORD, WatchedServers, client_of, watched_servers
from ..workers.conftest import Cluster, model, until
from .conftest import BGPIPE

__all__ = ["model"]
IMAGES = 150
LOST = 20  # outcomes that the replica lacks, at least
SETTINGS = {"BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "5", "BGPIPE_WORKER__LANES": "3"}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[WatchedServers]:
    with watched_servers(tmp_path) as servers:
        yield servers


@pytest.fixture
def cluster(servers: WatchedServers, model: Path, tmp_path: Path) -> Iterator[Cluster]:
    for name in ("source", "out"):
        (tmp_path / name).mkdir()
    with connect(servers.url) as client, make_app(load_settings(), servers.url) as app:
        yield Cluster(servers.url, client, JobStore(client), app, model, tmp_path)


@pytest.mark.slow
def test_what_a_failover_loses_is_done_again(servers: WatchedServers, cluster: Cluster) -> None:
    names = [cluster.photo(f"photo {index}.jpg") for index in range(IMAGES)]
    with (cluster.folder / "dispatcher.log").open("wb") as log:
        environment = cluster.environment(SETTINGS)
        dispatcher = subprocess.Popen([BGPIPE, "dispatch"], env=environment, stderr=log)
    try:
        with cluster.supervisor("--device", "cpu", **SETTINGS):
            job = cluster.submit(names, published=False)

            def done(server: RedisServer) -> int:
                with client_of(server) as client:
                    return int(client.hget(keys.of_job(job).head, "done") or 0)

            until(lambda: done(servers.replica) >= LOST // 2)
            servers.make_replica_lag()
            until(lambda: done(servers.primary) >= done(servers.replica) + LOST)
            kept, lost = done(servers.replica), done(servers.primary) - done(servers.replica)
            servers.primary.kill()
            killed = time.monotonic()
            until(lambda: done(servers.replica) > kept)
            resumed = time.monotonic() - killed
            summary = cluster.finished(job)
            seconds = time.monotonic() - killed
    finally:
        dispatcher.terminate()
        dispatcher.wait()
    assert (summary.total, summary.done, summary.failed) == (IMAGES, IMAGES, 0)
    assert len(list(cluster.out.iterdir())) == IMAGES
    with client_of(servers.replica) as client:
        assert client.info("replication")["role"] == "master"
    logs = [cluster.log(), (cluster.folder / "dispatcher.log").read_text()]
    assert not any(word in log for log in logs for word in (PASSWORD, "of%20the"))
    assert "worker ended" not in cluster.log()  # none was started again
    print(
        f"{lost} outcomes lost; next outcome after {resumed:.0f} s, job closed after {seconds:.0f} s"
    )
