from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.jobs.items import REFUSALS
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.scheduling.dispatcher import (
    Dispatcher,
    Feeder,
    JobController,
    forget_old,
    make_feeder,
)
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import Item, Job, JobId, JobState, Outcome

Items = Callable[[int], list[Item]]
OpenJob = Callable[[int], JobId]
Lead = Callable[[JobId], JobController]
QUEUE = "bgpipe"
HIGH_WATER = 600
LEASE = 0.6
PATIENCE = 0.3


@pytest.fixture
def session(session: Session) -> Session:
    settings = session.settings
    queue = settings.queue.model_copy(update={"high_water": HIGH_WATER})
    dispatch = settings.dispatch.model_copy(update={"lease": LEASE, "keep_days": 1.0})
    changes = {"queue": queue, "dispatch": dispatch}
    return replace(session, settings=settings.model_copy(update=changes))


@pytest.fixture
def feeder(session: Session) -> Iterator[Feeder]:
    feeder = make_feeder(session)
    with feeder.app:
        yield feeder


@pytest.fixture
def lead(session: Session, feeder: Feeder) -> Lead:
    """`lead(job)`: another leader of the job, as of another process."""
    margin = PATIENCE - session.settings.queue.visibility_timeout
    return lambda job: JobController(feeder, session.job_lease(job), job, margin)


@pytest.fixture
def dispatcher(session: Session, feeder: Feeder) -> Callable[[], Dispatcher]:
    """`dispatcher()`: another dispatcher, as of another process."""
    return lambda: Dispatcher(session, feeder)


def take(client: RedisClient, count: int) -> list[tuple[str, int]]:
    """Job and index in the next `count` messages, which leave the queue as if they were done."""
    taken = client.rpop(QUEUE, count) or []
    texts = [json.loads(text)["headers"]["argsrepr"].strip("()").split(", ") for text in taken]
    return [(job.strip("'"), int(index)) for job, index, _ in texts]


def turn(leader: JobController) -> bool:
    return leader.step(HIGH_WATER)


def test_one_leads_a_job_and_another_takes_over_when_it_leaves(
    open_job: OpenJob, lead: Lead, client: RedisClient
) -> None:
    job = open_job(3)
    first, second = lead(job), lead(job)
    turn(first)
    turn(second)
    assert (first.is_leader, second.is_leader) == (True, False)
    assert len(take(client, 9)) == 3
    first.release()
    turn(second)
    assert second.is_leader


def test_a_leader_that_slept_through_its_end_moves_no_cursor(
    open_job: OpenJob, lead: Lead, job_store: JobStore, feeder: Feeder, client: RedisClient
) -> None:
    job = open_job(500)
    sleeper = Lease(client, keys.lease_of_job(job), LEASE)
    token = sleeper.acquire()
    feeder.publish_next(job, 100, token)
    time.sleep(1.5 * LEASE)
    other = lead(job)
    turn(other)
    before = job_store.cursor(job)
    with pytest.raises(Exception, match="another command leads"):
        job_store.set_cursor(job, 9, token)
    other.step(0)  # renews its lease
    assert sleeper.acquire() == 0
    assert job_store.cursor(job) == before == 500


def test_what_was_lost_is_sent_again_once_the_queue_is_quiet(
    open_job: OpenJob, lead: Lead, job_store: JobStore, client: RedisClient
) -> None:
    job = open_job(30)
    leader = lead(job)
    received: list[int] = []
    for _ in range(20):
        turn(leader)
        for _, index in take(client, 30):
            received.append(index)
            if received.count(index) == 2 or index % 10:  # every tenth message is lost once
                job_store.items.settle(job, Outcome.done(index))
    assert job_store.summary(job).state is JobState.FINISHED
    assert sorted(received) == sorted([*range(30), 0, 10, 20])


def test_a_paused_job_is_tried_with_one_image_now_and_then_and_fed_anew_after_it(
    open_job: OpenJob, lead: Lead, job_store: JobStore, client: RedisClient
) -> None:
    job = open_job(5)
    leader = lead(job)
    turn(leader)
    job_store.items.settle(job, Outcome.done(0))
    for _ in range(REFUSALS):
        claim = job_store.items.claim(job, 1, "w")
        assert claim
        job_store.items.give_back(claim, "the disk is full")
    take(client, 9)  # dropped by the worker
    probes = []
    end = time.monotonic() + 2
    while time.monotonic() < end:
        assert not turn(leader)
        probes += [(time.monotonic(), message) for message in take(client, 9)]
    assert [message for _, message in probes] == [(job, 1)] * len(probes)
    assert 2 <= len(probes) <= 3  # at once, after one second, after two more
    assert job_store.items.claim(job, 1, "w")
    job_store.items.settle(job, Outcome.done(1))
    turn(leader)
    assert sorted(take(client, 9)) == [(job, 2), (job, 3), (job, 4)]


def test_a_message_that_is_just_being_received_is_not_sent_again(
    open_job: OpenJob, lead: Lead, job_store: JobStore, client: RedisClient
) -> None:
    job = open_job(3)
    leader, received = lead(job), list[int]()
    while job_store.summary(job).state is JobState.RUNNING:
        turn(leader)
        if received:  # at the turn before this one it was nowhere to be seen
            job_store.items.settle(job, Outcome.done(received[-1]))
        received += [index for _, index in take(client, 1)]
    assert received == [0, 1, 2]


def test_what_a_worker_that_lives_has_claimed_is_left_to_it_for_a_while(
    open_job: OpenJob, lead: Lead, job_store: JobStore, client: RedisClient
) -> None:
    job, leader = open_job(1), None
    leader = lead(job)
    client.hset(keys.of_worker("cpu@host"), "beat", 1)
    turn(leader)
    take(client, 1)
    job_store.items.claim(job, 0, "cpu@host")
    for _ in range(6):
        turn(leader)
    assert take(client, 1) == []
    client.delete(keys.of_worker("cpu@host"))  # it died
    for _ in range(3):
        turn(leader)
    assert take(client, 1) == [(job, 0)]


def test_what_was_lost_is_sent_again_although_another_job_keeps_the_queue_busy(
    open_job: OpenJob, lead: Lead, job_store: JobStore, client: RedisClient
) -> None:
    job = open_job(5)
    leader = lead(job)
    turn(leader)
    assert len(take(client, 3)) == 3  # 0 to 2 are lost, 3 and 4 still wait
    client.hset(keys.UNACKED, "tag", "of another job")
    turn(leader)
    assert len(take(client, 9)) == 2  # ... and are lost after that
    turn(leader)
    assert take(client, 9) == []
    time.sleep(1.2 * PATIENCE)
    turn(leader)
    assert take(client, 9) == [(job, index) for index in range(5)]


@pytest.fixture
def open_jobs(job_store: JobStore, job: Job, items: Items) -> Callable[..., list[JobId]]:
    """`open_jobs(a=3, b=5)`: started jobs of so many items."""

    def opened(**sizes: int) -> list[JobId]:
        for name, count in sizes.items():
            job_store.open(replace(job, id=JobId(name), out=f"/{name}"))
            job_store.add(JobId(name), items(count))
            job_store.start(JobId(name))
        return [JobId(name) for name in sizes]

    return opened


def test_jobs_share_the_room_below_one_high_water_mark(
    open_jobs: Callable[..., list[JobId]],
    dispatcher: Callable[[], Dispatcher],
    job_store: JobStore,
    client: RedisClient,
) -> None:
    open_jobs(large=5000, small=100, other=5000)
    one = dispatcher()
    one.step()
    cursors = [job_store.cursor(JobId(name)) for name in ("large", "small", "other")]
    assert cursors == [200, 100, 200]
    one.step()
    assert client.llen(QUEUE) <= HIGH_WATER
    for _ in range(200):
        for name, index in take(client, 100):
            job_store.items.settle(JobId(name), Outcome.done(index))
        one.step()
        ahead = abs(job_store.cursor(JobId("large")) - job_store.cursor(JobId("other")))
        assert ahead <= HIGH_WATER
        assert client.llen(QUEUE) <= HIGH_WATER
        if not job_store.running_ids():
            break
    assert job_store.running_ids() == []


def test_one_dispatcher_leads_and_another_takes_over_from_a_dead_one(
    open_jobs: Callable[..., list[JobId]], dispatcher: Callable[[], Dispatcher], job_store: JobStore
) -> None:
    (job,) = open_jobs(a=5)
    first, second = dispatcher(), dispatcher()
    first.step()
    second.step()
    assert (first.is_leader, second.is_leader) == (True, False)
    (later,) = open_jobs(b=5)
    time.sleep(1.5 * LEASE)  # the first one is dead
    second.step()
    assert second.is_leader
    assert job_store.cursor(later) == 5
    first.step()
    assert not first.is_leader
    second.release()
    first.step()
    assert first.is_leader
    assert job_store.cursor(job) == 5


def test_a_job_that_a_command_leads_is_left_to_it(
    open_jobs: Callable[..., list[JobId]],
    dispatcher: Callable[[], Dispatcher],
    lead: Lead,
    job_store: JobStore,
) -> None:
    (job,) = open_jobs(a=5)
    command = lead(job)
    turn(command)
    one = dispatcher()
    one.step()
    assert one.is_leader
    turn(command)
    assert command.is_leader


def test_a_damaged_job_is_reported_once_and_the_others_continue(
    open_jobs: Callable[..., list[JobId]],
    dispatcher: Callable[[], Dispatcher],
    job_store: JobStore,
    client: RedisClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = open_jobs(bad=5, good=5)
    client.hset(keys.of_job(bad).manifest, "0", b"not a block")
    one = dispatcher()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            one.step()
    assert job_store.cursor(good) == 5
    (record,) = caplog.records
    assert "block 0" in str(record.__dict__["fields"]["error"])


def test_closed_jobs_are_forgotten_when_they_are_old(
    open_jobs: Callable[..., list[JobId]],
    job_store: JobStore,
    client: RedisClient,
    session: Session,
) -> None:
    _, old, cancelled, _ = open_jobs(running=1, old=0, cancelled=1, young=0)
    job_store.cancel(cancelled)
    for job in (old, cancelled):
        client.hset(keys.of_job(job).head, "finished", time.time() - 2 * 86_400)
    assert set(forget_old(session)) == {old, cancelled}
    assert set(job_store.ids()) == {"running", "young"}
    assert not list(client.scan_iter(f"{keys.of_job(old).head}*"))


def test_sweeps_add_few_messages_and_wait_for_what_people_submitted(
    job_store: JobStore,
    job: Job,
    items: Items,
    dispatcher: Callable[[], Dispatcher],
    feeder: Feeder,
    client: RedisClient,
) -> None:
    few = load_settings().dispatch.sweep_messages
    ours = dispatcher()

    def opened(name: str, count: int, sweep: str) -> None:
        order = replace(job, id=JobId(name), source=f"/{name}", sweep=sweep)
        job_store.open(order)
        job_store.add(order.id, items(count))
        job_store.start(order.id)

    opened("sweep", few * 2, "night")
    for _ in range(3):
        ours.step()
    assert feeder.depth() == few
    opened("submitted", 250, "")
    ours.step()
    assert feeder.depth() == few + 250
    take(client, 150)
    ours.step()
    assert job_store.cursor(JobId("sweep")) == few
    take(client, few)
    ours.step()
    assert job_store.cursor(JobId("sweep")) > few
