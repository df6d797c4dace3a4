"""The submitting side dies at every stage of a job; the books close all the same, each image once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.types import JobState

from ..support.idle_cluster import (
    HIGH_WATER,
    JOB,
    SECONDS,
    Cluster,
    Idler,
    assert_closed,
    kill,
    until,
)
from ..support.redis_server import RedisServer

IMAGES = 12_000


@pytest.fixture
def cluster(redis_server_process: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    with connect(redis_server_process.url) as client:
        yield Cluster(redis_server_process, client, tmp_path)


@dataclass(frozen=True, slots=True)
class Moment:
    """A stage of the job, of which `share` has passed."""

    cluster: Cluster
    share: float

    def listing(self) -> bool:
        if not self.cluster.is_in(JobState.LISTING):
            return False
        return self.cluster.jobs.items.size(JOB) > self.share * IMAGES / 2

    def feeding(self) -> bool:
        """Messages are published up to the high-water mark."""
        if not self.cluster.is_in(JobState.RUNNING):
            return False
        return self.cluster.jobs.cursor(JOB) > self.share * HIGH_WATER / 2

    def waiting(self) -> bool:
        if not self.cluster.is_in(JobState.RUNNING) or self.cluster.jobs.cursor(JOB) < IMAGES:
            return False
        settled = IMAGES - self.cluster.jobs.summary(JOB).queued
        return settled > IMAGES - HIGH_WATER * (1 - self.share / 2)


@pytest.fixture
def killed(cluster: Cluster, dice: random.Random) -> Callable[[str], Idler]:
    """`killed("feeding")`: a job whose submitter was killed then, and what settles its images."""

    def kill_at(stage: str) -> Idler:
        cluster.fill(IMAGES)
        moment = getattr(Moment(cluster, dice.random()), stage)
        idler = Idler(cluster.client)
        submitter = cluster.submit("--job", JOB, "--wait")
        with idler.at_work() if stage == "waiting" else nullcontext():
            until(moment)
        kill(submitter)
        return idler

    return kill_at


@pytest.mark.chaos
@pytest.mark.parametrize("stage", ["listing", "feeding", "waiting"])
def test_a_job_whose_submitter_is_killed_is_resumed(
    cluster: Cluster, killed: Callable[[str], Idler], stage: str
) -> None:
    idler = killed(stage)
    assert not cluster.is_in(JobState.FINISHED)
    with idler.at_work():
        code, output, words = cluster.run("resume", JOB, "--wait", "--json")
    assert code == 0, words
    assert json.loads(output.splitlines()[-1])["done"] == IMAGES
    assert_closed(cluster, idler)


@pytest.mark.chaos
@pytest.mark.parametrize("stage", ["feeding", "waiting"])
def test_a_job_whose_submitter_is_killed_is_completed_by_the_dispatcher(
    cluster: Cluster, killed: Callable[[str], Idler], stage: str
) -> None:
    idler = killed(stage)
    with cluster.dispatcher(), idler.at_work():
        until(lambda: cluster.is_in(JobState.FINISHED))
    assert_closed(cluster, idler)


@pytest.mark.chaos
def test_dispatchers_are_killed_and_stopped_in_turn_and_the_job_goes_on(cluster: Cluster) -> None:
    cluster.fill(IMAGES)
    idler = Idler(cluster.client)
    with cluster.dispatcher() as first, cluster.dispatcher() as second:
        until(lambda: is_held(cluster.client, keys.DISPATCH))
        code, _, words = cluster.run(
            "submit", cluster.photos, "--model", "birefnet-nano", "--job", JOB, "--detach"
        )
        assert (code, "no dispatcher" in words) == (0, False)
        with idler.at_work():
            for number in (signal.SIGSTOP, signal.SIGKILL):
                until(lambda: cluster.jobs.cursor(JOB) > 0)
                before = cluster.jobs.cursor(JOB)
                leader = first if leads(cluster, first) else second
                leader.send_signal(number)
                start = time.monotonic()
                until(lambda before=before: cluster.jobs.cursor(JOB) > before + 1000, 20)
                print(f"taken over after {number.name} in {time.monotonic() - start:.1f} s")
                leader.send_signal(signal.SIGCONT)
            until(lambda: cluster.is_in(JobState.FINISHED))
    assert_closed(cluster, idler)


def leads(cluster: Cluster, process: subprocess.Popen[str]) -> bool:
    holder = cluster.client.hget(keys.of_lease(keys.DISPATCH), "holder") or b""
    return f":{process.pid}:".encode() in holder


@pytest.mark.chaos
def test_redis_lost_for_good_is_exit_4_and_the_job_can_be_resumed(cluster: Cluster) -> None:
    cluster.fill(50)
    submitter = cluster.submit("--job", JOB, "--wait")
    until(lambda: cluster.is_in(JobState.RUNNING))
    time.sleep(1.5)  # appendfsync everysec
    cluster.server.kill()
    _, words = submitter.communicate(timeout=SECONDS)
    assert submitter.returncode == 4, words
    assert f"bgpipe resume {JOB}" in words
    assert "redis is not available" in words
    assert "Traceback" not in words
    cluster.server.start()
    idler = Idler(cluster.client)
    with idler.at_work():
        assert cluster.run("resume", JOB, "--wait")[0] == 0
    assert_closed(cluster, idler)
