"""Workers and Redis killed again and again in the middle of 2,000 images."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.types import JobId, JobState, JobSummary

from ..support.redis_server import RedisServer
from ..workers.conftest import Cluster
from .conftest import dispatcher, files, whole

pytestmark = pytest.mark.chaos

IMAGES = 2000
WORKER_KILLS = 12
REDIS_KILLS = 3
DOWN = 2.0
"""Seconds without Redis."""
LIMIT = 600.0
PAUSING = Path(__file__).with_name("pausing_worker.py")
SETTINGS = {
    "BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "5",
    # A worker that is killed every few seconds would in time do so to the same image three times.
    "BGPIPE_QUEUE__MAX_ATTEMPTS": "6",
    "BGPIPE_WORKER__LANES": "3",
}


@dataclass
class Worker:
    """One worker process, started anew whenever it was killed."""

    name: str
    cluster: Cluster
    stack: ExitStack
    process: subprocess.Popen[bytes] = field(init=False)
    dead: set[str] = field(default_factory=set)
    """What its earlier processes claimed as."""

    def start(self, pause: float) -> None:
        log = self.stack.enter_context((self.cluster.folder / "worker.log").open("ab"))
        environment = self.cluster.environment(SETTINGS | {"TEST_PAUSE": str(pause)})
        self.process = subprocess.Popen(
            [sys.executable, PAUSING, "--name", self.name],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.communicate()

    def keep(self, pause: float) -> None:
        """Start a process anew that ended because it found no Redis, as the supervisor does."""
        if self.process.poll() is not None:
            self.process.communicate()
            self.start(pause)

    def works(self, job: JobId) -> bool:
        """Whether this process, and none before it, has images in flight."""
        claims = set(self.cluster.jobs.items.claims(job).values())
        ours = {claim for claim in claims if claim.startswith(f"{self.name}/")} - self.dead
        return bool(ours)


def photos(cluster: Cluster) -> list[str]:
    noise = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = noise.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48)).save(cluster.source / f"{i:04}.jpg")
    return [f"{i:04}.jpg" for i in range(IMAGES)]


def undisturbed(cluster: Cluster, names: list[str]) -> dict[str, bytes]:
    with ExitStack() as stack:
        workers = [Worker(f"{name}@calm", cluster, stack) for name in "ab"]
        for worker in workers:
            worker.start(pause=0)
        stack.enter_context(dispatcher(cluster))
        assert wait(cluster, cluster.submit(names)).done == IMAGES
        for worker in workers:
            worker.kill(signal.SIGTERM)
    calm = files(cluster.out)
    for path in cluster.out.iterdir():
        path.unlink()
    (cluster.folder / "worker.log").write_text("")
    return calm


def wait(cluster: Cluster, job: JobId) -> JobSummary:
    deadline = time.monotonic() + LIMIT
    while (summary := cluster.jobs.summary(job)).state != JobState.FINISHED:
        assert time.monotonic() < deadline, summary
        time.sleep(0.2)
    return summary


def test_killed_workers_and_a_killed_redis_lose_nothing(
    fragile: Cluster, redis_server_process: RedisServer, dice: random.Random
) -> None:
    names = photos(fragile)
    calm = undisturbed(fragile, names)
    kills = Counter[str]()
    with ExitStack() as stack:
        victim, other = (Worker(f"{name}@storm", fragile, stack) for name in "ab")
        for worker in (victim, other):
            worker.start(pause=0.15)
        stack.enter_context(dispatcher(fragile))
        job = fragile.submit(names)
        while fragile.jobs.summary(job).state != JobState.FINISHED:
            time.sleep(dice.uniform(0, 2))
            for worker in (victim, other):
                worker.keep(pause=0.15)
            if victim.works(job) and kills["worker"] < WORKER_KILLS:
                victim.kill()
                victim.dead |= set(fragile.jobs.items.claims(job).values())
                victim.start(pause=0.15)
                kills["worker"] += 1
            if kills["worker"] >= 4 * (kills["redis"] + 1) - 1 and kills["redis"] < REDIS_KILLS:
                redis_server_process.kill()
                time.sleep(DOWN)
                redis_server_process.start()
                kills["redis"] += 1
        summary = wait(fragile, job)
        for worker in (victim, other):
            worker.kill(signal.SIGTERM)
    assert kills == {"worker": WORKER_KILLS, "redis": REDIS_KILLS}
    assert (summary.total, summary.done, summary.failed) == (IMAGES, IMAGES, 0)
    assert whole(fragile.out)
    assert files(fragile.out) == calm
    again = sum(map(int, fragile.client.hgetall(keys.of_job(job).repeats).values()))
    log = (fragile.folder / "worker.log").read_text()
    done = Counter(re.findall(r"image done job=\S+ index=(\d+)", log))
    print(
        f"{IMAGES} images in {summary.seconds:.0f} s, workers killed {kills['worker']} times, Redis "
        f"{kills['redis']} times: begun again {again}, finished twice "
        f"{sum(count > 1 for count in done.values())}, failed {summary.failed}"
    )
