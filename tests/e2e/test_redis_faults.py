"""Redis answers 5 % of all commands with errors, cuts and stalls, and every job ends as if it had not.

Celery connects anew after each fault of its own commands, and needs some twenty to do so: at 5 % an image takes seconds.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from PIL import Image
from redis.backoff import NoBackoff
from redis.retry import Retry
from safetensors.torch import load_file, save_file

from bgpipe.pipeline.models.registry import SIZE_KEY

from ..chaos.conftest import BGPIPE, files, fragile, whole
from ..support.redis_proxy import FAULTS, FaultPlan, RedisProxy, running_redis_proxy
from ..support.redis_server import RedisServer
from ..workers.conftest import Cluster, _show_log, model, until

__all__ = ["_show_log", "fragile", "model"]

SECONDS = 2400

# A connection that arrives as the proxy stops is left to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SETTINGS = {"BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "5"}
"""Messages whose delivery broke off wait for so long."""


@pytest.fixture
def proxy(redis_server_process: RedisServer) -> Iterator[RedisProxy]:
    with running_redis_proxy(redis_server_process.url, FaultPlan(seed=19)) as proxy:
        yield proxy


@pytest.fixture
def faulty(fragile: Cluster, proxy: RedisProxy) -> Cluster:
    """A cluster whose processes reach Redis through the proxy; the test itself reaches it directly."""
    small = fragile.folder / "small.safetensors"
    save_file(load_file(fragile.model), small, {SIZE_KEY: "64x64"})
    return replace(fragile, url=proxy.url, model=small)


@pytest.fixture
def raw(proxy: RedisProxy) -> Iterator[redis.Redis]:
    """A client that repeats nothing and translates nothing."""
    with redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


def test_a_refused_command_aborts_its_transaction_as_in_redis(
    raw: redis.Redis, proxy: RedisProxy
) -> None:
    proxy.plan.answer("INCRBY", "OOM", 1)
    with raw.pipeline() as transaction, pytest.raises(redis.exceptions.OutOfMemoryError):
        transaction.set("a", 1).incr("b").execute()
    assert (raw.get("a"), raw.get("b")) == (None, None)
    with raw.pipeline() as transaction:
        assert transaction.set("a", 1).incr("b").execute() == [True, 1]


def test_a_reply_is_lost_after_its_command_and_a_command_before_it(
    raw: redis.Redis, proxy: RedisProxy
) -> None:
    for fault, value in (("cut-before", None), ("cut-after", b"1"), ("cut-within", b"2")):
        proxy.plan.answer("INCRBY", fault, 1)
        with pytest.raises(redis.exceptions.ConnectionError):
            raw.incr("count")
        assert raw.get("count") == value


def test_a_client_that_leaves_while_it_waits_takes_no_message_with_it(
    raw: redis.Redis, proxy: RedisProxy
) -> None:
    retry = Retry(NoBackoff(), 0)
    with (
        redis.Redis.from_url(proxy.url, socket_timeout=0.2, retry=retry) as leaver,
        pytest.raises(redis.exceptions.TimeoutError),
    ):
        leaver.brpop("queue", timeout=5)
    until(lambda: raw.info("clients")["blocked_clients"] == 0)
    raw.lpush("queue", "message")
    assert raw.llen("queue") == 1


@pytest.mark.parametrize(
    ("count", "rate", "workers"),
    [(12, 0.03, 1), pytest.param(500, 0.05, 4, marks=pytest.mark.slow)],
)
def test_a_job_among_failing_commands_ends_with_the_same_bytes(
    faulty: Cluster, proxy: RedisProxy, count: int, rate: float, workers: int
) -> None:
    make_photos(faulty.source, count)
    devices = ["cpu"] * workers
    with (
        faulty.supervisor("--lanes", "12", "--device", *devices, **SETTINGS) as supervisor,
        dispatch(faulty) as leader,
    ):
        assert submit(faulty, "calm")[0] == 0
        proxy.plan.rate = rate
        code, output, words = submit(faulty, "storm")
        assert (supervisor.poll(), leader.poll()) == (None, None), words
        proxy.plan.pass_all()
    assert code == 0, words
    assert "Traceback" not in words
    summary = json.loads(output.splitlines()[-1])
    assert (summary["total"], summary["done"], summary["failed"]) == (count, count, 0)
    assert whole(faulty.folder / "storm")
    assert files(faulty.folder / "storm") == files(faulty.folder / "calm")
    faults = proxy.plan.faults()
    restarts = faulty.log().count("worker ended")
    print(f"{count} images, {restarts} restarts, {sum(faults.values())} faults: {dict(faults)}")
    if count == 500:
        assert set(faults) == set(FAULTS)
    else:
        assert faults


def make_photos(folder: Path, count: int) -> None:
    noise = np.random.default_rng(0)
    for number in range(count):
        pixels = noise.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(folder / f"{number:04}.jpg")


@contextmanager
def dispatch(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    with (cluster.folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [BGPIPE, "dispatch"], env=cluster.environment(SETTINGS), stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def submit(cluster: Cluster, out: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a waiting `bgpipe submit`."""
    command = [BGPIPE, "--json", "submit", cluster.source, "--out", cluster.folder / out]
    done = subprocess.run(
        [*command, "--model", cluster.model, "--job", out, "--wait"],
        env=cluster.environment(SETTINGS),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr
