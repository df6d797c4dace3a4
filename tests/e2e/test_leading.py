"""Several commands at one job: who leads it, who follows, and who is refused."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.types import JobId, JobState

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


@pytest.fixture
def cluster(redis_server_process: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    with connect(redis_server_process.url) as client:
        yield Cluster(redis_server_process, client, tmp_path)


def read_now(stream: IO[str] | None) -> str:
    """What can be read of a pipe without waiting."""
    assert stream
    if not select.select([stream], [], [], 0)[0]:
        return ""
    return os.read(stream.fileno(), 4096).decode()


def test_of_two_submits_at_once_one_leads_and_the_other_follows(cluster: Cluster) -> None:
    cluster.fill(300)
    idler = Idler(cluster.client)
    submits = [cluster.submit("--wait", "--json") for _ in range(2)]
    heard = dict.fromkeys(submits, "")

    def one_follows() -> bool:
        for process in submits:
            heard[process] += read_now(process.stderr)
        return any("following job" in words for words in heard.values())

    until(one_follows)
    until(lambda: [cluster.is_in(JobState.RUNNING, job) for job in cluster.jobs.ids()] == [True])
    with idler.at_work():
        ended = [
            (output, heard[process] + words)
            for process in submits
            for output, words in [process.communicate(timeout=SECONDS)]
        ]
    assert [process.returncode for process in submits] == [0, 0], ended
    (job,) = cluster.jobs.ids()
    assert {json.loads(output.splitlines()[-1])["job"] for output, _ in ended} == {job}
    assert sum(f"following job {job}" in words for _, words in ended) == 1
    assert_closed(cluster, idler, job)


def test_a_follower_takes_the_job_over_when_its_leader_is_killed(cluster: Cluster) -> None:
    cluster.fill(300)
    idler = Idler(cluster.client)
    first = cluster.submit("--wait", "--job", JOB)
    until(lambda: cluster.is_in(JobState.RUNNING))
    second = cluster.submit("--wait")
    assert f"following job {JOB}" in second.stderr.readline()
    kill(first)
    with idler.at_work():
        _, words = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, words
    assert_closed(cluster, idler)


def test_a_submit_whose_redis_was_emptied_says_so_and_can_be_repeated(cluster: Cluster) -> None:
    cluster.fill(5)
    submit = cluster.submit("--wait", "--job", JOB)
    until(lambda: cluster.is_in(JobState.RUNNING))
    cluster.client.flushall()
    _, words = submit.communicate(timeout=SECONDS)
    assert (submit.returncode, f"redis has lost job {JOB}" in words) == (4, True), words


def test_other_cutouts_for_the_same_place_are_refused_while_a_job_is_led(
    cluster: Cluster,
) -> None:
    cluster.fill(5)
    first = cluster.submit("--wait", "--job", JOB)
    until(lambda: cluster.is_in(JobState.RUNNING))
    code, _, words = cluster.run(
        "submit", cluster.photos, "--model", "birefnet-nano", "--preset", "raw", "--wait"
    )
    assert (code, f"bgpipe cancel {JOB}" in words) == (2, True), words
    assert cluster.run("cancel", JOB)[0] == 0
    _, words = first.communicate(timeout=SECONDS)
    assert first.returncode == 130, words
    assert cluster.run("jobs", "--forget", JOB)[0] == 0
    assert cluster.jobs.ids() == []


def test_a_job_that_was_left_gives_way_to_a_new_one(cluster: Cluster) -> None:
    cluster.fill(5)
    first = cluster.submit("--wait", "--job", JOB)
    until(lambda: cluster.is_in(JobState.RUNNING))
    first.send_signal(signal.SIGINT)
    _, words = first.communicate(timeout=SECONDS)
    assert (first.returncode, f"bgpipe resume {JOB}" in words) == (130, True), words
    idler = Idler(cluster.client)
    second = cluster.submit("--wait", "--job", "second")
    with idler.at_work():
        _, words = second.communicate(timeout=SECONDS)
    assert (second.returncode, f"job {JOB} was abandoned" in words) == (0, True), words
    assert cluster.is_in(JobState.CANCELLED)
    assert_closed(cluster, idler, JobId("second"))


def test_with_a_dispatcher_a_detached_submit_leaves_the_feeding_to_it(cluster: Cluster) -> None:
    cluster.fill(HIGH_WATER + 500)
    submit = ("submit", cluster.photos, "--model", "birefnet-nano", "--detach", "--job", JOB)
    with cluster.dispatcher() as dispatcher:
        until(lambda: is_held(cluster.client, keys.DISPATCH))
        code, output, words = cluster.run(*submit)
        assert (code, output.split()) == (0, [JOB]), words
        idler = Idler(cluster.client)
        with idler.at_work():
            until(lambda: cluster.is_in(JobState.FINISHED))
        assert_closed(cluster, idler)
        dispatcher.terminate()
        _, words = dispatcher.communicate(timeout=SECONDS)
        assert (dispatcher.returncode, "dispatcher stopped" in words) == (0, True), words
        assert not is_held(cluster.client, keys.DISPATCH)
