"""What may be found in the queue, and what Redis may answer, without ending a worker."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.dead_messages import KEPT, describe_dead
from bgpipe.pipeline.broker.queue import publish
from bgpipe.pipeline.types import Item, JobId
from bgpipe.workers.consumer import MALFORMED, rebuild

from ..support.redis_proxy import running_redis_proxy
from .conftest import QUEUE, Cluster, until
from .test_supervisor import TROUBLED

ETAS = ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30", "2026-01-01")
VALUES = (
    None,
    True,
    -1,
    2**70,
    0.5,
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"a": {}},
    "W10=",
    "e30=",
    *ETAS,
)


@pytest.fixture
def message(cluster: Cluster) -> dict[str, Any]:
    """One of the product's own, taken off the queue."""
    publish(cluster.app, JobId("unknown"), [Item(0, "a.jpg", "a.png", "id")], QUEUE)
    text = cluster.client.rpop(QUEUE)
    assert isinstance(text, bytes)
    message: dict[str, Any] = json.loads(text)
    return message


def mutants(message: dict[str, Any], dice: random.Random) -> Iterator[bytes]:
    """Each field replaced and left out in turn, and the text cut and with other bytes."""
    yield from (b"", b"\xff\xfe", b"null", b"[]", b"{}", b"[" * 5000, b'"' + b"x" * 100_000 + b'"')
    for path in paths(message):
        for value in (*VALUES, ...):
            mutant = deepcopy(message)
            parent = mutant
            for name in path[:-1]:
                parent = parent[name]
            if value is ...:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            yield json.dumps(mutant).encode()
    text = json.dumps(message).encode()
    for _ in range(50):
        position = dice.randrange(len(text))
        yield text[:position]
        yield text[:position] + dice.randbytes(2) + text[position + 2 :]


def paths(message: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in message.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, *rest) for rest in paths(value))


def test_no_bytes_in_the_queue_end_a_worker(cluster: Cluster, message: dict[str, Any]) -> None:
    with cluster.process([TROUBLED], {}) as process:
        poison = [*mutants(message, random.Random(7))]
        for start in range(0, len(poison), 500):
            cluster.client.lpush(QUEUE, *poison[start : start + 500])
        job = cluster.submit([cluster.file("good", b"good")])
        assert cluster.finished(job).done == 1
        until(lambda: not cluster.client.exists(keys.UNACKED, QUEUE))
        assert process.poll() is None
    log = cluster.log()
    assert "Unrecoverable error" not in log
    assert log.count("worker starts") == 1
    assert "Connection to broker lost" not in log
    assert cluster.client.llen(keys.DEAD) == KEPT


def test_the_product_s_own_messages_keep_what_the_product_reads(message: dict[str, Any]) -> None:
    rebuilt = json.loads(rebuild(json.dumps(message).encode()))
    assert rebuilt["headers"].items() <= message["headers"].items()
    assert {"id", "task", "argsrepr", "published", "retries"} <= rebuilt["headers"].keys()
    assert rebuilt["properties"].items() <= message["properties"].items()
    assert json.loads(base64.b64decode(rebuilt["body"]))[0] == ["unknown", 0, "a.jpg"]


@pytest.mark.parametrize("body", [b"[]", None, b"", b"[1, 2, 3]", b'[["a", "0", "b"], {}, {}]'])
def test_a_body_that_is_no_task_is_set_aside_with_its_reason(
    message: dict[str, Any], body: bytes | None
) -> None:
    if body is None:
        del message["body"]
    else:
        message["body"] = base64.b64encode(body).decode()
    with pytest.raises(MALFORMED):
        rebuild(json.dumps(message).encode())


def test_jobs_and_doctor_show_what_was_set_aside(cluster: Cluster) -> None:
    cluster.client.lpush(QUEUE, b"poison")
    with cluster.process([TROUBLED], {}):
        until(lambda: cluster.client.exists(keys.DEAD))
    shown = describe_dead(cluster.client)
    assert shown.startswith("unreadable messages were set aside: 1, the newest 0 min ago: JSON")


FAULTS = (
    *[("BRPOP", fault) for fault in ("OOM", "READONLY", "BUSY", "NOPERM", "MASTERDOWN")],
    *[("ZADD", fault) for fault in ("OOM", "MISCONF", "cut-after")],
    *[("HSET", fault) for fault in ("READONLY", "CLUSTERDOWN", "cut-after")],
    *[("EVALSHA", "BUSY"), ("HGET", "MASTERDOWN")],
)


def test_no_reply_of_redis_ends_a_worker(cluster: Cluster) -> None:
    names = [cluster.file(f"{number}", b"good") for number in range(3)]
    with running_redis_proxy(cluster.url) as proxy:
        environment = {"BGPIPE_REDIS_URL": proxy.url}
        with cluster.process([TROUBLED], environment) as process:
            for command, fault in FAULTS:
                proxy.plan.answer(command, fault, 2)
                job = cluster.submit(names)
                until(lambda: not proxy.plan.limit)
                assert cluster.finished_after_a_kill(job).done == len(names)
                assert process.poll() is None, (command, fault)
    assert "Unrecoverable error" not in cluster.log()
