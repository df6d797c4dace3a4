from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bgpipe.config.settings import QueueSettings, load_settings
from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.feeder import Feeder
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.queue import depth, make_app
from bgpipe.pipeline.types import Books, JobId, JobState, Outcome

OpenJob = Callable[[int], JobId]
QUEUE = "bgpipe"
POLL = 0.02


@pytest.fixture
def queue_settings() -> QueueSettings:
    values = load_settings().queue.model_dump()
    return QueueSettings(**values | {"high_water": 2500, "visibility_timeout": 2})


@pytest.fixture
def feeder(
    ledger: Ledger, client: Connection, redis_url: str, queue_settings: QueueSettings
) -> Iterator[Feeder]:
    with make_app(load_settings(), redis_url) as app:
        yield Feeder(ledger, app, client, queue_settings)


def take(client: Connection, count: int) -> list[int]:
    """The indices in the next `count` messages, which leave the queue as if they were done."""
    taken = client.rpop(QUEUE, count) or []
    return [int(json.loads(text)["headers"]["argsrepr"].split(", ")[1]) for text in taken]


def test_the_queue_stays_below_the_high_water_mark(
    feeder: Feeder, ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(4000)
    assert not feeder.step(job)
    assert depth(client, QUEUE) == ledger.cursor(job) == 2500
    assert not feeder.step(job)
    assert depth(client, QUEUE) == 2500
    assert take(client, 2000) == list(range(2000))
    assert feeder.step(job)
    assert depth(client, QUEUE) == 500 + 1500
    assert take(client, 2000) == list(range(2000, 4000))
    assert feeder.step(job)
    assert depth(client, QUEUE) == 0


def test_a_feeder_goes_on_where_another_one_died(
    feeder: Feeder, ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(1500)
    feeder.step(job)
    ledger.advance(job, 1000)  # it died between the last batch and its mark
    assert feeder.step(job)
    assert take(client, 9999) == [*range(1500), *range(1000, 1500)]


def test_feeding_waits_for_room(feeder: Feeder, client: Connection, open_job: OpenJob) -> None:
    job = open_job(2501)
    feeding = threading.Thread(target=feeder.feed, args=(job, POLL))
    feeding.start()
    while depth(client, QUEUE) < 2500:
        time.sleep(POLL)
    feeding.join(10 * POLL)
    assert feeding.is_alive()
    take(client, 1)
    feeding.join()
    assert depth(client, QUEUE) == 2500


def test_reconciling_publishes_exactly_what_is_not_settled(
    feeder: Feeder, ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(20)
    feeder.step(job)
    take(client, 20)
    for index in range(20):
        if index not in {4, 19}:
            ledger.settle(job, Outcome.done(index))
    assert feeder.reconcile(job) == 2
    assert take(client, 20) == [4, 19]


def test_a_run_ends_with_the_books_although_messages_were_lost(
    feeder: Feeder, ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(30)
    seen: list[Books] = []
    received: list[int] = []

    def worker(books: Books) -> None:
        seen.append(books)
        assert len(seen) < 500, "what was lost never came back"
        for index in take(client, 30):
            received.append(index)
            if received.count(index) == 2 or index % 10:  # every tenth message is lost once
                ledger.settle(job, Outcome.done(index))

    books = feeder.run(job, worker, poll=POLL)
    assert (books.state, books.done) == (JobState.FINISHED, 30)
    assert sorted(received) == sorted([*range(30), 0, 10, 20])
    assert seen[-1] == books


def test_a_message_that_is_just_being_received_is_not_sent_again(
    feeder: Feeder, ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(3)
    received: list[int] = []

    def worker(books: Books) -> None:
        if received:  # at the poll before this one it was nowhere to be seen
            ledger.settle(job, Outcome.done(received[-1]))
        received.extend(take(client, 1))

    feeder.run(job, worker, poll=POLL)
    assert received == [0, 1, 2]


def test_nothing_is_sent_again_while_a_message_is_held(
    feeder: Feeder, ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(1)
    polls: list[Books] = []

    def worker(books: Books) -> None:
        polls.append(books)
        if len(polls) == 1:
            take(client, 1)
            client.hset(keys.UNACKED, "tag", "message")
        if len(polls) == 20:
            assert take(client, 1) == []
            ledger.settle(job, Outcome.done(0))
            client.delete(keys.UNACKED)

    feeder.run(job, worker, poll=POLL)


def test_a_claim_of_a_worker_that_lives_is_waited_for(
    feeder: Feeder, ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(1)
    polls: list[Books] = []
    client.hset(keys.of_worker("cpu@host"), "beat", 1)

    def worker(books: Books) -> None:
        polls.append(books)
        if len(polls) == 1:
            take(client, 1)
            ledger.claim(job, 0, "cpu@host")
        if len(polls) == 20:
            assert take(client, 1) == []
            client.delete(keys.of_worker("cpu@host"))  # it died
        elif len(polls) > 20 and take(client, 1):
            ledger.settle(job, Outcome.done(0))

    assert feeder.run(job, worker, poll=POLL).done == 1


def test_a_run_of_a_finished_job_returns_at_once(feeder: Feeder, open_job: OpenJob) -> None:
    assert feeder.run(open_job(0), lambda books: None).state is JobState.FINISHED


def test_what_the_observer_raises_ends_the_run(feeder: Feeder, open_job: OpenJob) -> None:
    def observer(books: Books) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feeder.run(open_job(1), observer)
