"""The health checks of containers and supervisors: they tell work from life."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import (
    CONNECT_TIMEOUT,
    RETRY_SECONDS,
    SOCKET_TIMEOUT,
    RedisClient,
    connect,
)
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.monitoring.heartbeat import WorkerStats
from bgpipe.workers.heartbeat import sending_heartbeats

from ..support.redis_server import RedisServer

if TYPE_CHECKING:
    from .conftest import Bgpipe

NOW = 1.7e9
AT_WORK = WorkerStats(beat=NOW, in_flight=3, oldest=2.5, steps=7)
STUCK = WorkerStats(beat=NOW, in_flight=1, oldest=1000.0)
IDLE = WorkerStats(beat=NOW, steps=7)
PLACE = f"gpu0@{platform.node()}"
HERE = f"{PLACE}/abc"
Asked = Callable[..., tuple[int, str]]


@pytest.fixture
def client(redis_url: str) -> Iterator[RedisClient]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def doctor(bgpipe: Bgpipe, redis_url: str) -> Asked:
    """`doctor(*options)`: exit code and all that it said."""

    def run(*options: str) -> tuple[int, str]:
        done = bgpipe("doctor", *options, BGPIPE_REDIS_URL=redis_url)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_worker_that_gets_images_done_is_healthy(client: RedisClient, doctor: Asked) -> None:
    with sending_heartbeats(client, HERE, lambda: AT_WORK):
        code, said = doctor("--worker")
    assert (code, PLACE in said) == (0, True), said


def test_a_worker_that_lives_and_gets_nothing_done_is_not(
    client: RedisClient, doctor: Asked
) -> None:
    with sending_heartbeats(client, HERE, lambda: STUCK):
        code, said = doctor("--worker")
    assert (code, "no image done for 900 s" in said) == (4, True), said


def test_the_workers_of_other_machines_prove_nothing(client: RedisClient, doctor: Asked) -> None:
    with sending_heartbeats(client, "gpu0@elsewhere/abc", lambda: AT_WORK):
        code, said = doctor("--worker")
    assert (code, "has a heartbeat" in said) == (4, True), said


@pytest.mark.slow
def test_a_worker_that_takes_no_messages_is_found_out(client: RedisClient, doctor: Asked) -> None:
    client.rpush("bgpipe", "message")
    with sending_heartbeats(client, HERE, lambda: IDLE):
        code, said = doctor("--worker")
    assert (code, "do not take messages" in said) == (4, True), said


def test_a_dispatcher_is_healthy_while_one_of_the_cluster_leads(
    client: RedisClient, doctor: Asked
) -> None:
    assert doctor("--dispatcher")[0] == 4
    lease = Lease(client, keys.DISPATCH, seconds=60)
    assert lease.acquire()
    assert doctor("--dispatcher")[0] == 0


def test_two_questions_at_once_are_refused(doctor: Asked) -> None:
    assert doctor("--worker", "--dispatcher")[0] == 2


CLUSTER = {"BGPIPE_MODEL__NAME": "birefnet-nano"}


def lines(output: str) -> dict[str, tuple[str, str]]:
    """Level and detail of each check."""
    found = [line.split(maxsplit=2) for line in output.splitlines()]
    return {what: (level, detail) for level, what, detail in found}


def test_without_a_cluster_a_machine_is_fit_and_the_bundled_model_is_a_warning(
    bgpipe: Bgpipe,
) -> None:
    done = bgpipe("doctor")
    assert done.returncode == 0, done.stdout
    found = lines(done.stdout)
    assert list(found) == [
        *("bgpipe", "state", "redis", "durability", "dispatcher", "workers", "queue", "jobs"),
        *("devices", "model"),
    ]
    assert {what for what, (level, _) in found.items() if level == "warning"} == {"model"}
    assert "bgpipe models pull birefnet-general" in found["model"][1]
    assert "embedded" in found["redis"][1]


def test_a_cluster_without_the_model_is_not_fit_as_a_submit_would_not_be(
    bgpipe: Bgpipe, redis_url: str, photos: Path
) -> None:
    done = bgpipe("doctor", BGPIPE_REDIS_URL=redis_url)
    found = lines(done.stdout)
    assert (done.returncode, found["model"][0]) == (4, "error"), done.stdout
    assert {found["workers"][0], found["dispatcher"][0]} == {"warning"}
    assert "start bgpipe worker" in found["workers"][1]
    assert bgpipe("submit", photos, "--detach", BGPIPE_REDIS_URL=redis_url).returncode == 4
    assert bgpipe("doctor", BGPIPE_REDIS_URL=redis_url, **CLUSTER).returncode == 0


def test_a_state_folder_that_cannot_be_written_is_found(bgpipe: Bgpipe, photos: Path) -> None:
    (bgpipe.home / "file").touch()
    folder = str(bgpipe.home / "file/state")
    done = bgpipe("doctor", BGPIPE_STATE_DIR=folder)
    level, detail = lines(done.stdout)["state"]
    assert (done.returncode, level) == (4, "error"), done.stdout
    assert "set BGPIPE_STATE_DIR to another" in detail
    assert bgpipe("submit", photos, BGPIPE_STATE_DIR=folder).returncode == 4


def test_a_redis_that_is_away_is_found(bgpipe: Bgpipe) -> None:
    done = bgpipe("doctor", BGPIPE_REDIS_URL="redis://:hunter2@127.0.0.1:9/0", **CLUSTER)
    assert (done.returncode, lines(done.stdout)["redis"][0]) == (4, "error"), done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_a_redis_without_tls_is_found_at_once(bgpipe: Bgpipe, redis_url: str) -> None:
    began = time.monotonic()
    insecure = redis_url.replace("redis://", "rediss://")
    done = bgpipe("doctor", BGPIPE_REDIS_URL=insecure, **CLUSTER)
    assert (done.returncode, lines(done.stdout)["redis"][0]) == (4, "error"), done.stdout
    assert "the server replies without TLS" in lines(done.stdout)["redis"][1]
    assert time.monotonic() - began < CONNECT_TIMEOUT + SOCKET_TIMEOUT


@pytest.mark.parametrize(
    "trouble", ["replica", "rights", "memory", pytest.param("scripts", marks=pytest.mark.slow)]
)
def test_a_redis_that_refuses_to_write_is_found_as_a_submit_finds_it(
    bgpipe: Bgpipe, redis_server_process: RedisServer, photos: Path, trouble: str
) -> None:
    url = redis_server_process.url
    with connect(url) as client:
        if trouble == "replica":
            client.replicaof("127.0.0.1", "9")
        elif trouble == "rights":
            client.execute_command("ACL", "SETUSER", "me", "on", ">pw", "~*", "+@all", "-@write")
            url = url.replace("redis://", "redis://me:pw@")
        elif trouble == "scripts":
            client.execute_command(
                "ACL", "SETUSER", "me", "on", ">pw", "~*", "+@all", "-@scripting"
            )
            url = url.replace("redis://", "redis://me:pw@")
        else:
            client.config_set("maxmemory", 1)
        began = time.monotonic()
        done = bgpipe("doctor", BGPIPE_REDIS_URL=url, **CLUSTER)
        assert (done.returncode, lines(done.stdout)["redis"][0]) == (4, "error"), done.stdout
        assert "Traceback" not in done.stderr
        assert time.monotonic() - began < RETRY_SECONDS
        if trouble in {"replica", "memory"}:  # a submit waits for their end
            return
        done = bgpipe("submit", photos, "--detach", BGPIPE_REDIS_URL=url, **CLUSTER)
        assert done.returncode == 4, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "value"), [("maxmemory", "1gb"), ("maxmemory-policy", "allkeys-lru")]
)
def test_a_redis_that_may_lose_jobs_is_found(
    bgpipe: Bgpipe, redis_server_process: RedisServer, setting: str, value: str
) -> None:
    with connect(redis_server_process.url) as client:
        client.set("another program's", bytes(20_000_000))
    with connect(redis_server_process.url) as client:
        if setting == "maxmemory":
            value = str(int(client.info("memory")["used_memory"] * 1.05))
        client.config_set(setting, value)
    done = bgpipe("doctor", BGPIPE_REDIS_URL=redis_server_process.url, **CLUSTER)
    found = lines(done.stdout)
    assert (done.returncode, found["redis"][0], found["durability"][0]) == (4, "ok", "error")
    assert setting in found["durability"][1]


@pytest.mark.parametrize("text", ["[worker]\nlane = 1\n", "[refine]\npreset = 'mine'\n"])
def test_with_wrong_settings_nothing_is_checked(bgpipe: Bgpipe, text: str) -> None:
    (bgpipe.home / "bgpipe.toml").write_text(text)
    done = bgpipe("doctor")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bgpipe: bgpipe.toml:2: ")


def test_the_checks_are_json_lines_too(bgpipe: Bgpipe) -> None:
    found = {record["what"]: record for record in bgpipe.records("doctor")}
    assert (found["model"]["level"], found["model"]["ok"]) == ("warning", True)
    assert (found["redis"]["level"], found["redis"]["ok"]) == ("ok", True)
