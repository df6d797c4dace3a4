"""Everything that happens to jobs, done to a real Redis by the product's code and to the model.

Each method does both, and compares what the caller sees; an error of the product is one of the model.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import pytest

from bgpipe.config.settings import QueueSettings, load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.errors import Code, RedisUnavailable, UsageError
from bgpipe.pipeline.jobs.items import Claim
from bgpipe.pipeline.jobs.store import JobConflict, JobNotFound, JobStore, LeaseLost
from bgpipe.pipeline.scheduling.dispatcher import Feeder
from bgpipe.pipeline.types import Item, Job, JobId, JobState, Outcome, Preset, Recipe, ReviewFlag
from bgpipe.workers.claims import ClaimedElsewhere, ClaimManager
from bgpipe.workers.heartbeat import is_alive

from .job_model import (
    ItemModel,
    JobModel,
    Refused,
    StaleToken,
    StoreModel,
    TargetTaken,
    UnknownJob,
    WrongState,
)
from .virtual_redis import VirtualRedis

NAMES = tuple(map(JobId, ("left", "right", "other")))
LOCATIONS = {"left": "/shared", "right": "/shared", "other": "/other"}
LEADERS = ("p", "q")
SLOTS = ("v", "w")
MOST_ITEMS = 6
HIGH_WATER = 8
START = 1_700_000_000
LEASE_SECONDS = 3600.0
"""Longer than any example: leases end as the rules say."""
RECIPE = Recipe("none", "0" * 64, (32, 32), Preset())
EXPECTED = {
    UnknownJob: JobNotFound,
    StaleToken: LeaseLost,
    TargetTaken: JobConflict,
    WrongState: UsageError,
}


@dataclass(frozen=True, slots=True)
class Message:
    job: JobId
    index: int
    source: str

    @classmethod
    def parse(cls, text: bytes) -> Message:
        job, index, source = json.loads(base64.b64decode(json.loads(text)["body"]))[0]
        return cls(JobId(job), index, source)

    @property
    def text(self) -> str:
        body = json.dumps([[self.job, self.index, self.source], {}, {}]).encode()
        return json.dumps({"body": base64.b64encode(body).decode()})


class DirectFeeder(Feeder):
    """Publishes what `Feeder` decides, in kombu's envelope, without Celery's connections."""

    def _publish(self, job_id: JobId, indices: Iterable[int]) -> None:
        for item in self.jobs.items.pick(job_id, indices):
            message = Message(job_id, item.index, item.source)
            self.client.lpush(self.settings.name, message.text)


@dataclass
class Lane:
    """An image in flight; `held` is the claim's context, `tag` the message's."""

    claim: Claim
    held: AbstractContextManager[Claim | None]
    tag: str
    message: Message


@dataclass
class Worker:
    name: str
    claims: ClaimManager
    lanes: list[Lane] = field(default_factory=list)
    abandoned: set[tuple[JobId, int]] = field(default_factory=set)


class JobActions:
    """Two leaders, two workers and three jobs, of which two have the same source and target."""

    client: ClassVar[VirtualRedis]
    """Set by the test, which makes a subclass of its own."""
    queue: ClassVar[QueueSettings] = load_settings().queue.model_copy(
        update={"high_water": HIGH_WATER}
    )

    def begin(self) -> None:
        self.client.loses_replies = False
        self.client.flushdb()
        self.model = StoreModel(START)
        self.client.set_clock(START)
        self.store = JobStore(self.client)
        self.feeder = DirectFeeder(self.store, None, self.client, self.queue)
        self.leases = {
            (name, leader): Lease(self.client, keys.lease_of_job(name), LEASE_SECONDS)
            for name in NAMES
            for leader in LEADERS
        }
        self.tokens = dict.fromkeys(self.leases, 0)
        self.holders: dict[JobId, str] = {}
        self.fence = self.sources = self.processes = self.tags = 0
        self.alive: set[str] = set()
        self.dead: set[str] = set()
        self.workers = {slot: self._new_worker(slot) for slot in SLOTS}

    def pass_time(self, seconds: int) -> None:
        self.model.now += seconds
        self.client.set_clock(self.model.now)

    # Leases

    def acquire(self, name: JobId, leader: str) -> None:
        """A new holder gets a token higher than any; a renewal keeps its own."""
        token = self.leases[name, leader].acquire()
        if self.holders.get(name, leader) != leader:
            assert token == 0
        elif name in self.holders:
            assert token == self.tokens[name, leader]
        else:
            assert token > self.fence
            self.holders[name] = leader
            self.fence = self.tokens[name, leader] = token

    def release_lease(self, name: JobId, leader: str) -> None:
        self.leases[name, leader].release()
        if self.holders.get(name) == leader:
            del self.holders[name]

    def expire_lease(self, name: JobId) -> None:
        self.client.delete(keys.of_lease(keys.lease_of_job(name)))
        self.holders.pop(name, None)

    # Jobs

    def submit(self, name: JobId) -> None:
        self.pass_time(1)  # no two jobs are created at once
        out = LOCATIONS[name]
        job = Job(name, f"{out}/in", out, RECIPE, created=self.model.now)
        self._change(lambda: self.store.open(job, ["a"]), lambda: self.model.open(job))

    def relist(self, name: JobId, leader: str) -> None:
        self._fenced(name, leader, self.store.relist, self.model.relist)

    def append(self, name: JobId, leader: str, count: int, gap: int) -> None:
        job = self.model.jobs.get(name)
        first = (len(job.items) if job else 0) + gap
        count = min(count, MOST_ITEMS - first)
        if count < 1:
            return
        self.sources += 1
        sources = [f"{self.sources}/{first + i}.jpg" for i in range(count)]
        items = [Item(first + i, source, source, "") for i, source in enumerate(sources)]
        token = self.tokens[name, leader]
        self._change(
            lambda: self.store.add(name, items, token),
            lambda: self.model.add(name, first, sources, token),
        )

    def skip(self, name: JobId, leader: str, count: int) -> None:
        token = self.tokens[name, leader]
        self._change(
            lambda: self.store.skip(name, count, token),
            lambda: self.model.skip(name, count, token),
        )

    def start(self, name: JobId, leader: str) -> None:
        self._fenced(name, leader, self.store.start, self.model.start)

    def launch(self, name: JobId, leader: str, count: int) -> None:
        self.submit(name)
        self.acquire(name, leader)
        self.relist(name, leader)
        self.append(name, leader, count, gap=0)
        self.start(name, leader)
        self.publish(name, leader, MOST_ITEMS)

    def cancel(self, name: JobId) -> None:
        self._change(lambda: self.store.cancel(name), lambda: self.model.cancel(name))

    def resume(self, name: JobId, leader: str) -> None:
        self._fenced(name, leader, self.store.resume, self.model.resume)

    def retry(self, name: JobId, leader: str) -> None:
        """As the commands do: under a new lease, or with a token that is stale."""
        if self.holders.get(name) == leader:
            self.release_lease(name, leader)
            self.acquire(name, leader)
        self._fenced(name, leader, self.store.retry, self.model.retry)

    def forget(self, name: JobId) -> None:
        self._change(lambda: self.store.forget(name), lambda: self.model.forget(name))

    # Publishing

    def publish(self, name: JobId, leader: str, capacity: int) -> None:
        """As a leader does, which lists a job in that state and feeds any other."""
        if self._state(name) is JobState.LISTING:
            return
        published = self._published(name)
        token = self.tokens[name, leader]

        def feed() -> None:
            job = self.model.lead(name, token)
            batch = [index for index in job.unsettled if index >= job.cursor][:capacity]
            job.cursor = batch[-1] + 1 if len(batch) == capacity else len(job.items)
            published.extend(batch)

        self._change(lambda: self.feeder.publish_next(name, capacity, token), feed)
        assert sorted(self._published(name)) == sorted(published)

    def republish(self, name: JobId, *, claimed: bool) -> None:
        """As a leader does that found the queue empty, or waited for long."""
        job, published = self.model.jobs[name], self._published(name)
        lost = [
            index
            for index in job.unsettled
            if index < job.cursor
            and index not in published
            and (claimed or not self._is_held(job.items[index]))
        ]
        capacity = max(0, HIGH_WATER - len(self._messages()))
        self.feeder.republish_lost(name, claimed=claimed)
        assert sorted(self._published(name)) == sorted(published + lost[:capacity])

    # Messages

    def lose_message(self, number: int) -> None:
        if waiting := self._waiting():
            self.client.lrem(self.queue.name, 1, waiting[number % len(waiting)])

    def duplicate_message(self, number: int) -> None:
        if waiting := self._waiting():
            self.client.lpush(self.queue.name, waiting[number % len(waiting)])

    def redeliver(self, number: int) -> None:
        """A message stayed unacknowledged for too long: its worker died, or only takes long."""
        if tags := sorted(self.client.hkeys(keys.UNACKED)):
            self.requeue(tags[number % len(tags)].decode())

    def requeue(self, tag: str) -> None:
        text = self.client.hget(keys.UNACKED, tag)
        if text is not None:
            self._ack(tag)
            self.client.lpush(self.queue.name, text)

    # Workers

    @property
    def lanes(self) -> list[tuple[str, Lane]]:
        """Every image in flight, with the slot of its worker."""
        return [(slot, lane) for slot in SLOTS for lane in self.workers[slot].lanes]

    def claim(self, slot: str) -> bool:
        """Take the next message; returns whether it is in flight now."""
        worker = self.workers[slot]
        text = self.client.lindex(self.queue.name, -1)
        if text is None or self._would_wait(worker, Message.parse(text)):
            return False
        self.client.rpop(self.queue.name)
        self.tags += 1
        tag = str(self.tags)
        self.client.hset(keys.UNACKED, tag, text)
        before = len(worker.lanes)
        self._begin(worker, Message.parse(text), tag)
        return len(worker.lanes) > before

    def settle(
        self, number: int, code: str, flags: tuple[ReviewFlag, ...] = (), *, acked: bool = True
    ) -> None:
        """Settle, then acknowledge; without that, the worker dies in between."""
        slot, lane = self._take_lane(number)
        name, index = lane.message.job, lane.message.index
        outcome = Outcome(index, Code(code), "why") if code else Outcome.done(index, flags)
        if self._is_current(lane):
            expected = self.model.settle(name, index, code or "done", flags)
            counted = self.store.items.settle(name, outcome, lane.claim)
            assert counted == (expected and not self.client.loses_replies)
        else:
            with pytest.raises(UsageError):  # an unknown job, or one without such an item
                self.store.items.settle(name, outcome, lane.claim)
        if acked:
            self._ack(lane.tag)
        else:
            self.crash(slot)

    def release(self, number: int) -> None:
        """The attempt failed and is repeated: its message goes to the queue again."""
        _, lane = self._take_lane(number)
        if self._is_current(lane):
            self.model.release(lane.message.job, lane.message.index, lane.tag)
        self.store.items.release(lane.claim)
        self.requeue(lane.tag)

    def give_back(self, number: int) -> None:
        _, lane = self._take_lane(number)
        if self._is_current(lane):
            self.model.give_back(lane.message.job, lane.message.index, lane.tag)
        self.store.items.give_back(lane.claim)
        self.requeue(lane.tag)

    def lose_device(self, number: int) -> None:
        """The message goes back, the claim stays: the next attempt runs alone."""
        _, lane = self._take_lane(number)
        self.requeue(lane.tag)

    def lose_redis(self, number: int) -> None:
        """The lane ends, and its claim does not: Redis was away. The message comes again."""
        slot, lane = self.lanes[number % len(self.lanes)]
        self.workers[slot].lanes.remove(lane)
        self.workers[slot].abandoned.add((lane.message.job, lane.message.index))
        lane.held.__exit__(RedisUnavailable, RedisUnavailable("away"), None)
        self.requeue(lane.tag)

    def end_abandoned(self, slot: str) -> None:
        worker = self.workers[slot]
        worker.claims.end_abandoned()
        held = {(lane.message.job, lane.message.index) for lane in worker.lanes}
        for name, index in worker.abandoned - held:
            item = self._item(Message(name, index, ""))
            if item and item.owner == worker.name:
                item.claim = ""
        worker.abandoned.clear()

    def crash(self, slot: str) -> None:
        """Its heartbeat lasts for a while, and its messages stay unacknowledged."""
        self.dead.add(self.workers[slot].name)
        self.workers[slot] = self._new_worker(slot)

    def expire_heartbeats(self) -> None:
        """Those of the workers that died."""
        for name in self.dead & self.alive:
            self.stop_heartbeat(name)

    def stop_heartbeat(self, name: str) -> None:
        self.client.delete(keys.of_worker(name))
        self.alive.discard(name)

    def beat(self, name: str) -> None:
        self.client.hset(keys.of_worker(name), "beat", "1")
        self.alive.add(name)

    def take_over(self, slot: str) -> None:
        """The worker stands still, and its images go to the other one."""
        self.stop_heartbeat(self.workers[slot].name)
        for lane in self.workers[slot].lanes:
            self.requeue(lane.tag)
            self.claim(SLOTS[1 - SLOTS.index(slot)])

    # The end

    def run_to_its_end(self, name: JobId) -> None:
        """With a leader and a worker that live, a running job ends: no item is out of reach."""
        self.expire_lease(name)
        self.acquire(name, "p")
        for _ in range(2 * MOST_ITEMS * len(NAMES)):
            if self._state(name) is not JobState.RUNNING:
                return
            self.publish(name, "p", MOST_ITEMS)
            self.republish(name, claimed=False)
            for tag in self.client.hkeys(keys.UNACKED):
                self.requeue(tag.decode())
            for _ in range(self.client.llen(self.queue.name)):
                self.claim("v")
                while self.lanes:
                    self.settle(0, "")
        raise AssertionError(f"job {name} does not end: {self.model.jobs[name]}")

    # Helpers

    def _change(self, real: Callable[[], object], model: Callable[[], object]) -> None:
        """Both change, or both refuse for the same reason."""
        try:
            model()
        except Refused as error:
            with pytest.raises(EXPECTED[type(error)]):
                real()
        else:
            real()

    def _fenced(
        self,
        name: JobId,
        leader: str,
        real: Callable[[JobId, int], object],
        model: Callable[[JobId, int], object],
    ) -> None:
        token = self.tokens[name, leader]
        self._change(lambda: real(name, token), lambda: model(name, token))

    def _state(self, name: JobId) -> JobState | None:
        return self.model.jobs[name].state if name in self.model.jobs else None

    def _new_worker(self, slot: str) -> Worker:
        self.processes += 1
        name = f"{slot}/{self.processes}"
        self.beat(name)
        return Worker(name, ClaimManager(self.store.items, name, partial(is_alive, self.client)))

    def _is_held(self, item: ItemModel) -> bool:
        return bool(item.claim) and item.owner in self.alive

    def _would_wait(self, worker: Worker, message: Message) -> bool:
        """Whether the claim would wait for other lanes of this worker, in which nothing moves now."""
        if any(lane.claim.predecessor for lane in worker.lanes):
            return True
        item = self._item(message)
        is_suspect = item and item.claim and item.owner not in {worker.name, *self.alive}
        return bool(worker.lanes and is_suspect)

    def _item(self, message: Message) -> ItemModel | None:
        job = self.model.jobs.get(message.job)
        return job.items[message.index] if job and message.index < len(job.items) else None

    def _begin(self, worker: Worker, message: Message, tag: str) -> None:
        held = worker.claims.claim(message.job, message.index, message.source)
        item, job = self._item(message), self.model.jobs.get(message.job)
        if self._is_elsewhere(worker, message, item):
            with pytest.raises(ClaimedElsewhere):
                held.__enter__()
            self.requeue(tag)
        elif item is None or job is None or _names_another(message, item, job):
            with pytest.raises(UsageError):
                held.__enter__()
            self._ack(tag)
        else:
            self._enter(worker, held, message, tag, replace(item))

    def _is_elsewhere(self, worker: Worker, message: Message, item: ItemModel | None) -> bool:
        mine = {(lane.message.job, lane.message.index) for lane in worker.lanes}
        if (message.job, message.index) in mine:
            return True
        return item is not None and self._is_held(item) and item.owner != worker.name

    def _enter(
        self,
        worker: Worker,
        held: AbstractContextManager[Claim | None],
        message: Message,
        tag: str,
        before: ItemModel,
    ) -> None:
        expected = self.model.claim(message.job, message.index, worker.name, tag)
        claim = held.__enter__()
        if claim is None or expected is None:
            assert claim is expected
            held.__exit__(None, None, None)
            self._ack(tag)
            return
        owner = self.store.items.owner(message.job, message.index)
        assert owner
        assert (claim.attempt, owner.redelivered) == (expected.attempts, expected.redelivered)
        assert claim.item.source == message.source
        is_suspect = bool(before.claim) and before.owner != worker.name
        assert (claim.predecessor is not None) == is_suspect
        if claim.predecessor:
            assert claim.predecessor.worker == before.owner
            assert claim.predecessor.redelivered == before.redelivered
        worker.lanes.append(Lane(claim, held, tag, message))

    def _take_lane(self, number: int) -> tuple[str, Lane]:
        slot, lane = self.lanes[number % len(self.lanes)]
        self.workers[slot].lanes.remove(lane)
        lane.held.__exit__(None, None, None)
        return slot, lane

    def _is_current(self, lane: Lane) -> bool:
        """Whether the job is the one that was claimed from, and not a later one of its name."""
        job = self.model.jobs.get(lane.message.job)
        return job is not None and job.job.created == lane.claim.job.created

    def _waiting(self) -> list[bytes]:
        return self.client.lrange(self.queue.name, 0, -1)

    def _messages(self) -> list[Message]:
        texts = (*self._waiting(), *self.client.hvals(keys.UNACKED))
        return [Message.parse(text) for text in texts]

    def _published(self, name: JobId) -> list[int]:
        return [message.index for message in self._messages() if message.job == name]

    def _ack(self, tag: str) -> None:
        self.client.hdel(keys.UNACKED, tag)


def _names_another(message: Message, item: ItemModel, job: JobModel) -> bool:
    """Whether the message is of an earlier job of this name; seen once the item is claimed."""
    claimable = job.state is JobState.RUNNING and not item.outcome
    return claimable and item.source != message.source
