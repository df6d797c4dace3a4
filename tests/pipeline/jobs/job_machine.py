"""Everything that happens to jobs, in any order: after each step Redis holds what the model does.

Leaders stall and wake up with old tokens, workers die and others wake up without a heartbeat, messages are lost
and come twice, and so do commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import Code
from bgpipe.pipeline.types import JobId, JobState, ReviewFlag

from .invariants import assert_invariants, assert_state
from .job_actions import MOST_ITEMS, NAMES, SLOTS, JobActions
from .job_model import OPEN
from .views import assert_views

NONE = ()
LISTING, RUNNING, FINISHED, CANCELLED = ((state,) for state in JobState)
CLOSED = FINISHED + CANCELLED
CODES = (Code.EMPTY, Code.NOT_IMAGE)
FLAGS = (ReviewFlag.NO_SUBJECT, ReviewFlag.MANY_PIECES)
ENDS = ("done", "done", *CODES, "release", "give back", "lose device", "lose redis", "keep")
LISTS = ("relist", "append", "gap", "skip", "start")
ACCEPTED = {
    "relist": LISTING,
    "append": LISTING,
    "start": LISTING + RUNNING + FINISHED,
    "resume": CANCELLED,
    "retry": FINISHED,
    "cancel": LISTING + RUNNING + CANCELLED,
    "forget": CLOSED,
}
"""The states in which a change has an effect."""

names = st.sampled_from(NAMES)
leaders = st.sampled_from(("p", "p", "p", "q"))
slots = st.sampled_from(SLOTS)
numbers = st.integers(0, 11)
counts = st.integers(1, MOST_ITEMS)


class JobMachine(JobActions, RuleBasedStateMachine):
    steps: ClassVar[int] = 0
    waiting = 0
    """Messages in the queue after the last step."""

    @initialize(count=counts)
    def begin_with_a_job(self, count: int) -> None:
        self.begin()
        self.launch(NAMES[0], "p", count)

    @rule(seconds=st.integers(1, 100))
    def later(self, seconds: int) -> None:
        self.pass_time(seconds)

    @rule(loses=st.booleans())
    def lose_replies(self, loses: bool) -> None:
        self.client.loses_replies = loses

    # Leases

    @rule(name=names, leader=leaders)
    def acquire_lease(self, name: JobId, leader: str) -> None:
        self.acquire(name, leader)

    @rule(name=names, leader=leaders)
    def leave(self, name: JobId, leader: str) -> None:
        self.release_lease(name, leader)

    @rule(name=names)
    def stall(self, name: JobId) -> None:
        self.expire_lease(name)

    # Jobs

    @precondition(lambda self: self.jobs_in(NONE))
    @rule(at=numbers, leader=leaders, count=counts)
    def launch_job(self, at: int, leader: str, count: int) -> None:
        self.launch(self.pick(at, NONE), leader, count)

    @precondition(lambda self: self.jobs_in(NONE))
    @rule(at=numbers)
    def submit_job(self, at: int) -> None:
        self.submit(self.pick(at, NONE))

    @precondition(lambda self: self.jobs_in(LISTING))
    @rule(
        at=numbers, leader=leaders, steps=st.lists(st.sampled_from(LISTS), min_size=1), count=counts
    )
    def list_job(self, at: int, leader: str, steps: Sequence[str], count: int) -> None:
        name = self.pick(at, LISTING)
        for step in steps:
            match step:
                case "relist":
                    self.relist(name, leader)
                case "append" | "gap":
                    self.append(name, leader, count, gap=int(step == "gap"))
                case "skip":
                    self.skip(name, leader, count)
                case "start":
                    self.start(name, leader)

    @precondition(lambda self: self.jobs_in(OPEN))
    @rule(at=numbers)
    def cancel_job(self, at: int) -> None:
        self.cancel(self.pick(at, OPEN))

    @precondition(lambda self: self.jobs_in(CANCELLED))
    @rule(at=numbers, leader=leaders)
    def resume_job(self, at: int, leader: str) -> None:
        self.resume(self.pick(at, CANCELLED), leader)

    @precondition(lambda self: self.jobs_in(FINISHED))
    @rule(at=numbers, leader=leaders)
    def retry_job(self, at: int, leader: str) -> None:
        self.retry(self.pick(at, FINISHED), leader)

    @precondition(lambda self: self.jobs_in(CLOSED))
    @rule(at=numbers)
    def forget_job(self, at: int) -> None:
        self.forget(self.pick(at, CLOSED))

    @rule(name=names, leader=leaders)
    def misuse(self, name: JobId, leader: str) -> None:
        """Each change that does nothing in the job's state, or is refused, as without such a job."""
        state = self.model.jobs[name].state if name in self.model.jobs else None
        for change, accepted in ACCEPTED.items():
            if state not in accepted:
                arguments = {"cancel": (), "forget": (), "append": (leader, 1, 0)}
                getattr(self, change)(name, *arguments.get(change, (leader,)))
        if state:
            self.submit(name)
        if state is JobState.CANCELLED:
            self.cancel(name)

    # Publishing

    @rule(name=names, leader=leaders, capacity=counts, is_new=st.booleans())
    def publish_some(self, name: JobId, leader: str, capacity: int, is_new: bool) -> None:
        if is_new:
            self.expire_lease(name)
            self.acquire(name, leader)
        self.publish(name, leader, capacity)

    @precondition(lambda self: self.jobs_in(RUNNING))
    @rule(at=numbers, claimed=st.booleans())
    def republish_lost(self, at: int, claimed: bool) -> None:
        self.republish(self.pick(at, RUNNING), claimed=claimed)

    # Messages

    @precondition(lambda self: self.waiting)
    @rule(number=numbers, lost=st.booleans())
    def mistreat_message(self, number: int, lost: bool) -> None:
        (self.lose_message if lost else self.duplicate_message)(number)

    @rule(number=numbers)
    def redeliver_message(self, number: int) -> None:
        self.redeliver(number)

    # Workers

    @precondition(lambda self: self.waiting)
    @rule(slot=slots, ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=8))
    def work(self, slot: str, ends: Sequence[str]) -> None:
        """Claim image after image, each of which ends in another way."""
        for end in ends:
            if self.claim(slot):
                self.end(len(self.workers["v"].lanes) - 1 if slot == "v" else -1, end)

    @precondition(lambda self: self.lanes)
    @rule(
        number=numbers,
        end=st.sampled_from(ENDS),
        flags=st.sets(st.sampled_from(FLAGS)),
        acked=st.booleans(),
    )
    def end_lane(self, number: int, end: str, flags: set[ReviewFlag], acked: bool) -> None:
        self.end(number, end, tuple(sorted(flags)), acked=acked)

    @rule(slot=slots, noticed=st.booleans())
    def crash_worker(self, slot: str, noticed: bool) -> None:
        self.crash(slot)
        if noticed:
            self.expire_heartbeats()

    @precondition(lambda self: self.lanes)
    @rule(slot=slots)
    def pause_worker(self, slot: str) -> None:
        """It stands still for longer than its heartbeat lasts."""
        self.take_over(slot)

    @rule(slot=slots)
    def wake_up(self, slot: str) -> None:
        self.beat(self.workers[slot].name)

    @rule(slot=slots)
    def reach_redis_again(self, slot: str) -> None:
        self.end_abandoned(slot)

    # Reading

    @rule(name=names)
    def look(self, name: JobId) -> None:
        assert_views(self.store, self.model, name, name in self.holders, bool(self.alive))

    @invariant()
    def redis_holds_what_the_model_does(self) -> None:
        type(self).steps += 1
        dump = self.client.dump()
        self.waiting = len(dump.get(self.queue.name, []))
        assert_state(dump, self.model)
        assert_invariants(dump)
        leases = {keys.of_lease(keys.lease_of_job(name)) for name in self.holders}
        assert {key for key in dump if key.startswith(keys.of_lease(""))} == leases

    def teardown(self) -> None:
        """Everything heals: each job ends, and leaves nothing behind when it is forgotten."""
        self.client.loses_replies = False
        while self.lanes:
            self.settle(0, "")
        for slot in SLOTS:
            self.crash(slot)
        self.expire_heartbeats()
        for name in self.jobs_in(LISTING):
            self.cancel(name)
        for name in self.jobs_in(RUNNING):
            self.run_to_its_end(name)
        self.redis_holds_what_the_model_does()
        for name in self.jobs_in(CLOSED):
            self.forget(name)
        for name in NAMES:
            self.expire_lease(name)
        left = set(self.client.dump()) - {self.queue.name, keys.UNACKED}
        assert left <= {keys.TOTALS, keys.FENCE, *map(keys.of_worker, self.alive)}

    # Helpers

    def end(
        self, number: int, end: str, flags: tuple[ReviewFlag, ...] = (), *, acked: bool = True
    ) -> None:
        """End an image in flight as ENDS says."""
        match end:
            case "release":
                self.release(number)
            case "give back":
                self.give_back(number)
            case "lose device":
                self.lose_device(number)
            case "lose redis":
                self.lose_redis(number)
            case "done":
                self.settle(number, "", flags, acked=acked)
            case Code():
                self.settle(number, end, acked=acked)

    def jobs_in(self, states: Sequence[JobState]) -> list[JobId]:
        """Return the jobs in one of `states`, or without them the free names."""
        jobs = self.model.jobs
        return [
            name for name in NAMES if (jobs[name].state in states if name in jobs else not states)
        ]

    def pick(self, at: int, states: Sequence[JobState]) -> JobId:
        fit = self.jobs_in(states)
        return fit[at % len(fit)]
