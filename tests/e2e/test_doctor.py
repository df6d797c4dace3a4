"""The health checks of containers and supervisors: they tell work from life."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection, connect
from bgpipe.pipeline.lease import Lease
from bgpipe.pipeline.vitals import Vitals
from bgpipe.workers.health import Heartbeat

if TYPE_CHECKING:
    from .conftest import Bgpipe

NOW = 1.7e9
AT_WORK = Vitals(beat=NOW, in_flight=3, oldest=2.5, steps=7)
STUCK = Vitals(beat=NOW, in_flight=1, oldest=1000.0)
IDLE = Vitals(beat=NOW, steps=7)
PLACE = f"gpu0@{platform.node()}"
HERE = f"{PLACE}/abc"
Asked = Callable[..., tuple[int, str]]


@pytest.fixture
def client(redis_url: str) -> Iterator[Connection]:
    with connect(redis_url) as client:
        yield client


@pytest.fixture
def doctor(bgpipe: Bgpipe, redis_url: str) -> Asked:
    """`doctor(*options)`: exit code and all that it said."""

    def run(*options: str) -> tuple[int, str]:
        done = bgpipe("doctor", *options, BGPIPE_REDIS_URL=redis_url)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_worker_that_gets_images_done_is_healthy(client: Connection, doctor: Asked) -> None:
    with Heartbeat(client, HERE, lambda: AT_WORK):
        code, said = doctor("--worker")
    assert (code, PLACE in said) == (0, True), said


def test_a_worker_that_lives_and_gets_nothing_done_is_not(
    client: Connection, doctor: Asked
) -> None:
    with Heartbeat(client, HERE, lambda: STUCK):
        code, said = doctor("--worker")
    assert (code, "no image done for 900 s" in said) == (4, True), said


def test_the_workers_of_other_machines_prove_nothing(client: Connection, doctor: Asked) -> None:
    with Heartbeat(client, "gpu0@elsewhere/abc", lambda: AT_WORK):
        code, said = doctor("--worker")
    assert (code, "has a heartbeat" in said) == (4, True), said


@pytest.mark.slow
def test_a_worker_that_takes_no_messages_is_found_out(client: Connection, doctor: Asked) -> None:
    client.rpush("bgpipe", "message")
    with Heartbeat(client, HERE, lambda: IDLE):
        code, said = doctor("--worker")
    assert (code, "nobody takes them" in said) == (4, True), said


def test_a_dispatcher_is_healthy_while_one_of_the_cluster_leads(
    client: Connection, doctor: Asked
) -> None:
    assert doctor("--dispatcher")[0] == 4
    lease = Lease(client, keys.DISPATCH, seconds=60)
    assert lease.take()
    assert doctor("--dispatcher")[0] == 0


def test_two_questions_at_once_are_refused(doctor: Asked) -> None:
    assert doctor("--worker", "--dispatcher")[0] == 2
