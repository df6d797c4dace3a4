from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from bgpipe.config.settings import QueueSettings, load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.queue import make_app, read_depth, waiting_messages
from bgpipe.pipeline.jobs.store import JobStore, LeaseLost
from bgpipe.pipeline.scheduling.dispatcher import Feeder
from bgpipe.pipeline.types import JobId, Outcome

OpenJob = Callable[[int], JobId]
QUEUE = "bgpipe"


@pytest.fixture
def queue_settings() -> QueueSettings:
    values = load_settings().queue.model_dump()
    return QueueSettings(**values | {"high_water": 2500, "visibility_timeout": 2})


@pytest.fixture
def feeder(
    job_store: JobStore, client: RedisClient, redis_url: str, queue_settings: QueueSettings
) -> Iterator[Feeder]:
    with make_app(load_settings(), redis_url) as app:
        yield Feeder(job_store, app, client, queue_settings)


def take(client: RedisClient, count: int) -> list[int]:
    """The indices in the next `count` messages, which leave the queue as if they were done."""
    taken = client.rpop(QUEUE, count) or []
    return [int(json.loads(text)["headers"]["argsrepr"].split(", ")[1]) for text in taken]


def feed(feeder: Feeder, job: JobId, token: int = 1) -> bool:
    return feeder.publish_next(job, feeder.capacity(), token)


def republish(feeder: Feeder, job: JobId, *, claimed: bool = False) -> int:
    """Republish what was lost; returns the number of messages."""
    before = feeder.depth()
    feeder.republish_lost(job, claimed=claimed)
    return feeder.depth() - before


def test_the_queue_stays_below_the_high_water_mark(
    feeder: Feeder, job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(4000)
    assert not feed(feeder, job)
    assert read_depth(client, QUEUE) == job_store.cursor(job) == 2500
    assert not feed(feeder, job)
    assert read_depth(client, QUEUE) == 2500
    assert take(client, 2000) == list(range(2000))
    assert feed(feeder, job)
    assert read_depth(client, QUEUE) == 500 + 1500
    assert take(client, 2000) == list(range(2000, 4000))
    assert feed(feeder, job)
    assert read_depth(client, QUEUE) == 0


def test_a_feeder_goes_on_where_another_one_died(
    feeder: Feeder, job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(1500)
    feed(feeder, job)
    job_store.set_cursor(job, 1000, token=1)  # it died between the last batch and its mark
    assert feed(feeder, job)
    assert take(client, 9999) == [*range(1500), *range(1000, 1500)]


def test_what_is_settled_is_not_published(
    feeder: Feeder, job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(20)
    for index in range(20):
        if index not in {4, 19}:
            job_store.items.settle(job, Outcome.done(index))
    assert feed(feeder, job)
    assert take(client, 20) == [4, 19]
    assert job_store.cursor(job) == 20


def test_reconciling_publishes_exactly_what_was_lost(
    feeder: Feeder, job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(20)
    feed(feeder, job)
    take(client, 16)  # 16 to 19 wait in the queue
    client.hset(keys.UNACKED, "tag", json.dumps([json.loads(client.rpop(QUEUE)), "", ""]))
    for index in range(3, 15):
        job_store.items.settle(job, Outcome.done(index))
    client.hset(keys.of_worker("alive@host"), "beat", 1)
    job_store.items.claim(job, 1, "alive@host")
    job_store.items.claim(job, 2, "dead@host")
    assert republish(feeder, job) == 3
    assert take(client, 20) == [17, 18, 19, 0, 2, 15]
    assert republish(feeder, job, claimed=True) == 7
    assert take(client, 20) == [0, 1, 2, 15, 17, 18, 19]


def test_reconciling_stays_below_the_high_water_mark_and_behind_the_cursor(
    feeder: Feeder, job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(4000)
    feed(feeder, job)
    take(client, 100)
    assert republish(feeder, job) == 100
    assert read_depth(client, QUEUE) == 2500
    take(client, 2500)
    assert republish(feeder, job) == 2500


def test_messages_of_others_are_none_of_a_job(
    feeder: Feeder, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(1)
    feed(feeder, job)
    client.lpush(QUEUE, "no message", json.dumps({"body": "?"}), "[]")
    assert waiting_messages(client, QUEUE, job) == {0}
    assert waiting_messages(client, QUEUE, JobId("another")) == set()


def test_a_leader_with_an_older_token_publishes_nothing(
    feeder: Feeder, job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(3000)
    feed(feeder, job, token=7)
    take(client, 1000)
    with pytest.raises(LeaseLost, match="another command leads"):
        feed(feeder, job, token=6)
    with pytest.raises(LeaseLost):
        job_store.set_cursor(job, 3000, token=6)
    assert (job_store.cursor(job), read_depth(client, QUEUE)) == (2500, 1500)
