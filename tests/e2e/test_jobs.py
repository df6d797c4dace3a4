"""The commands on jobs that are in the ledger already, and what they say of books that are damaged."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.types import JobId, JobState, Outcome

from ..support.idle_cluster import JOB, SECONDS, Cluster, Idler, assert_closed, kill, until
from ..support.redis_server import RedisServer

NOT_IMAGE = PermanentError(Code.NOT_IMAGE, "no image")


@pytest.fixture
def cluster(redis_server_process: RedisServer, tmp_path: Path) -> Iterator[Cluster]:
    with connect(redis_server_process.url) as client:
        yield Cluster(redis_server_process, client, tmp_path)


def submitted(cluster: Cluster, count: int) -> JobId:
    """A job of `count` images that is published and has no leader."""
    cluster.fill(count)
    process = cluster.submit("--detach", "--job", JOB)
    _, words = process.communicate()
    assert (process.returncode, "no dispatcher runs" in words) == (0, True), words
    return JOB


def records(cluster: Cluster, *arguments: object) -> list[dict[str, Any]]:
    code, output, words = cluster.run("--json", *arguments)
    assert code in {0, 1}, words
    return [json.loads(line) for line in output.splitlines()]


def test_dead_letters_are_done_again_and_nothing_else_is(cluster: Cluster) -> None:
    job = submitted(cluster, 4)
    assert cluster.run("retry", job)[0] == 2  # it runs
    for index in range(4):
        outcome = Outcome.failed(index, NOT_IMAGE) if index % 2 else Outcome.done(index)
        cluster.jobs.items.settle(job, outcome)
    cluster.client.delete("bgpipe")
    assert [record["index"] for record in records(cluster, "errors", job)] == [1, 3]
    idler = Idler(cluster.client)
    with idler.at_work():
        (summary,) = records(cluster, "retry", job, "--wait")
    assert (summary["state"], summary["done"], summary["failed"]) == ("finished", 4, 0)
    assert dict(idler.settled) == {(job, 1): 1, (job, 3): 1}
    code, _, words = cluster.run("retry", job)
    assert (code, "nothing to retry" in words) == (2, True)


def test_a_job_is_cancelled_resumed_and_forgotten(cluster: Cluster) -> None:
    job = submitted(cluster, 3)
    code, _, words = cluster.run("jobs", "--forget", job)
    assert (code, f"bgpipe cancel {job}" in words) == (2, True)
    (summary,) = records(cluster, "cancel", job)
    assert (summary["state"], summary["queued"]) == ("cancelled", 3)
    idler = Idler(cluster.client)
    with idler.at_work():
        assert cluster.run("resume", job, "--wait")[0] == 0
    assert_closed(cluster, idler)
    assert [record["job"] for record in records(cluster, "jobs")] == [job]
    assert records(cluster, "status", job, "--watch")[-1]["state"] == "finished"
    assert cluster.run("cancel", job)[0] == 2
    assert records(cluster, "jobs", "--forget", job) == [{"job": job, "forgotten": True}]
    assert records(cluster, "jobs") == []
    for command in ("status", "resume"):
        code, _, words = cluster.run(command, job)
        assert (code, f"unknown job: {job}" in words) == (2, True)


def test_an_interrupted_job_says_how_to_go_on_and_its_clock_stands(cluster: Cluster) -> None:
    cluster.fill(6)
    idler = Idler(cluster.client)
    process = cluster.submit("--wait", "--job", JOB)
    until(lambda: cluster.is_in(JobState.RUNNING))
    (summary,) = records(cluster, "status")
    assert (summary["state"], summary["interrupted"]) == ("running", False)
    cluster.jobs.items.settle(JOB, Outcome.done(0))
    kill(process)
    until(lambda: cluster.jobs.summary(JOB).interrupted)
    first, second = records(cluster, "status"), records(cluster, "jobs")
    assert (first[0]["state"], first[0]["interrupted"]) == ("running", True)
    assert first == second  # a moment later
    hint = f"interrupted: continue with bgpipe resume {JOB}"
    assert hint in cluster.run("status")[1].splitlines()
    _, table, words = cluster.run("jobs")
    assert (" interrupted " in table.splitlines()[1], words) == (True, f"{hint}\n")
    with cluster.followed() as words:
        assert hint in words.readline()
    with idler.at_work():
        assert cluster.run("resume", JOB, "--wait")[0] == 0
    assert cluster.jobs.summary(JOB).state is JobState.FINISHED
    assert hint not in cluster.run("status")[1]


def test_jobs_are_a_table_that_fits_a_terminal(cluster: Cluster) -> None:
    submitted(cluster, 3)
    header, row = cluster.run("jobs")[1].splitlines()
    assert header.split() == (
        ["job", "date", "state", "images", "done", "up", "to", "date", "failed", "source", "target"]
    )
    assert row.split()[0] == JOB
    assert row.endswith(f"{cluster.photos}  {cluster.photos}-cutouts")
    assert re.search(r"\s3\s+0\s+0\s+0\s", row)
    assert "\x1b" not in header + row
    lines = on_terminal(cluster, 100, "jobs")
    assert max(map(len, lines)) <= 100
    assert len(lines) == 3  # the header takes two
    assert "…" in lines[-1]


def on_terminal(cluster: Cluster, columns: int, *arguments: object) -> list[str]:
    """What a command writes to a terminal of so many columns, without colours."""
    ours, theirs = os.openpty()
    process = cluster.start(*arguments, stdout=theirs, COLUMNS=str(columns))
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(ours, 10_000):
            output += chunk
    process.communicate(timeout=SECONDS)
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", output.decode()).splitlines()


def test_damaged_records_are_reported_and_the_other_jobs_continue(cluster: Cluster) -> None:
    job = submitted(cluster, 3)
    names = keys.of_job(job)
    cluster.client.hset(names.manifest, "0", "no block")
    cluster.client.delete("bgpipe")
    cluster.client.hset(names.head, "cursor", "0")
    code, _, words = cluster.run("resume", job, "--wait")
    assert (code, "manifest of job long is damaged: block 0" in words) == (4, True), words
    cluster.client.delete(names.running)
    cluster.client.rpush(names.running, "not ours")
    code, _, words = cluster.run("status", job)
    assert (code, "is damaged: bgpipe:job:long" in words) == (4, True), words
    cluster.client.hset(names.head, "job", json.dumps({"version": 0}))
    cluster.client.delete(names.running)
    second = cluster.submit("--detach", "--job", "second", "--include", "*.png")
    second.communicate()
    reported = records(cluster, "jobs")
    assert [("error" in record, record["job"]) for record in reported] == [
        (True, job),
        (False, "second"),
    ]
    assert "another version of bgpipe" in reported[0]["error"]
    assert cluster.run("cancel", job)[0] == 4  # ended all the same
    assert cluster.run("jobs", "--forget", job)[0] == 0
    assert cluster.jobs.ids() == ["second"]


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", "set it to noeviction"),
        ("appendonly", "no", "set appendonly yes"),
    ],
)
def test_a_server_that_may_lose_jobs_is_found_out(
    cluster: Cluster, setting: str, value: str, words: str
) -> None:
    cluster.client.config_set(setting, value)
    code, output, _ = cluster.run("doctor")
    assert (code, words in output) == (4, True), output
    cluster.client.config_set("maxmemory-policy", "noeviction")
