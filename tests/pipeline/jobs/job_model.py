"""What the job store promises, without Redis: the model that the state machine compares it with."""

from __future__ import annotations

from dataclasses import dataclass, field

from bgpipe.pipeline.types import Job, JobId, JobState

OPEN = (JobState.LISTING, JobState.RUNNING)


class Refused(Exception):
    """The job store refuses the change, and changes nothing."""


class UnknownJob(Refused):
    pass


class StaleToken(Refused):
    pass


class WrongState(Refused):
    pass


class TargetTaken(Refused):
    pass


@dataclass
class ItemModel:
    source: str
    attempts: int = 0
    claim: str = ""
    """The claim that holds the item, and no other one."""
    owner: str = ""
    redelivered: bool = False
    outcome: str = ""
    """`done` or the error's code."""
    flags: tuple[str, ...] = ()


@dataclass
class JobModel:
    job: Job
    items: list[ItemModel] = field(default_factory=list)
    state: JobState = JobState.LISTING
    skipped: int = 0
    cursor: int = 0
    fence: int = 0
    retried: int | None = None
    """Token of the last retry."""
    started: float | None = None
    finished: float | None = None
    settled: float | None = None
    spent: float = 0

    @property
    def unsettled(self) -> list[int]:
        return [index for index, item in enumerate(self.items) if not item.outcome]

    @property
    def failed(self) -> list[int]:
        return [i for i, item in enumerate(self.items) if item.outcome not in {"", "done"}]

    @property
    def in_flight(self) -> list[int]:
        return [index for index, item in enumerate(self.items) if item.claim]

    def seconds(self, now: float) -> float:
        if self.started is None:
            return self.spent
        end = now if self.finished is None else self.finished
        return self.spent + end - self.started

    def finish_if_complete(self, now: float) -> None:
        if self.state is JobState.RUNNING and not self.unsettled:
            self.state, self.finished = JobState.FINISHED, now

    def reopen(self, state: JobState, now: float) -> None:
        if self.started is not None and self.finished is not None:
            self.spent += self.finished - self.started
            self.started = now
        self.finished, self.cursor, self.state = None, 0, state


@dataclass
class StoreModel:
    """All jobs. A change is refused with an exception before it changes anything but the fence."""

    now: float
    jobs: dict[JobId, JobModel] = field(default_factory=dict)
    targets: dict[str, JobId] = field(default_factory=dict)
    """The last job with these locations."""
    totals: dict[str, float] = field(default_factory=dict)

    def open(self, job: Job) -> None:
        if job.id in self.jobs:
            raise WrongState
        self._take_target(job)
        self.jobs[job.id] = JobModel(job)

    def relist(self, name: JobId, token: int) -> None:
        job = self._listed(name, token)
        job.items, job.skipped = [], 0

    def add(self, name: JobId, first: int, sources: list[str], token: int) -> None:
        job = self._listed(name, token)
        if first != len(job.items):
            raise WrongState
        job.items += map(ItemModel, sources)

    def skip(self, name: JobId, count: int, token: int) -> None:
        self.fenced(name, token).skipped = count

    def start(self, name: JobId, token: int) -> None:
        job = self.fenced(name, token)
        if job.state is JobState.CANCELLED:
            raise WrongState
        if job.state is JobState.LISTING:
            self._count("skipped", job.skipped)
            job.state, job.started = JobState.RUNNING, self.now
            job.finish_if_complete(self.now)

    def lead(self, name: JobId, token: int) -> JobModel:
        """A new leader's clock starts: nothing ran since the last outcome."""
        before = self.find(name).fence
        job = self.fenced(name, token)
        if token > before and job.state is JobState.RUNNING and job.settled is not None:
            assert job.started is not None
            job.spent += max(job.settled - job.started, 0)
            job.started = self.now
        return job

    def cancel(self, name: JobId) -> None:
        job = self.find(name)
        if job.state is JobState.FINISHED:
            raise WrongState
        if job.state is not JobState.CANCELLED:
            job.state, job.finished = JobState.CANCELLED, self.now

    def resume(self, name: JobId, token: int) -> None:
        job = self.fenced(name, token)
        if job.state is JobState.CANCELLED:
            self._take_target(job.job)
            state = JobState.LISTING if job.started is None else JobState.RUNNING
            job.reopen(state, self.now)
            job.finish_if_complete(self.now)

    def retry(self, name: JobId, token: int) -> None:
        job = self.fenced(name, token)
        if job.retried == token:
            return  # the same command, sent twice
        if job.state is not JobState.FINISHED:
            raise WrongState
        if job.failed:
            self._take_target(job.job)
            job.retried = token
            for index in job.failed:
                job.items[index] = ItemModel(job.items[index].source)
            job.reopen(JobState.RUNNING, self.now)

    def forget(self, name: JobId) -> None:
        job = self.find(name)
        if job.state in OPEN:
            raise WrongState
        if self.targets.get(job.job.locations_digest) == name:
            del self.targets[job.job.locations_digest]
        del self.jobs[name]

    def claim(self, name: JobId, index: int, owner: str, claim: str) -> ItemModel | None:
        job = self.find(name)
        item = job.items[index]
        if job.state is not JobState.RUNNING or item.outcome:
            return None
        item.attempts += 1
        item.redelivered = bool(item.claim)
        item.claim, item.owner = claim, owner
        return item

    def settle(self, name: JobId, index: int, outcome: str, flags: tuple[str, ...]) -> bool:
        job = self.find(name)
        item = job.items[index]
        if item.outcome:
            return False
        item.outcome, item.flags, item.claim = outcome, flags, ""
        job.settled = self.now
        counted = ("done", "flagged") if flags else ("done",)
        for total in counted if outcome == "done" else ("failed", f"error:{outcome}"):
            self._count(total, 1)
        for flag in flags:
            self._count(f"flag:{flag}", 1)
        job.finish_if_complete(self.now)
        return True

    def release(self, name: JobId, index: int, claim: str) -> None:
        item = self.find(name).items[index]
        if item.claim == claim:
            item.claim = ""

    def give_back(self, name: JobId, index: int, claim: str) -> None:
        item = self.find(name).items[index]
        if item.claim == claim:
            item.claim = ""
            item.attempts -= 1

    def find(self, name: JobId) -> JobModel:
        if name not in self.jobs:
            raise UnknownJob
        return self.jobs[name]

    def fenced(self, name: JobId, token: int) -> JobModel:
        job = self.find(name)
        if token < job.fence:
            raise StaleToken
        job.fence = token
        return job

    def _listed(self, name: JobId, token: int) -> JobModel:
        job = self.fenced(name, token)
        if job.state is not JobState.LISTING:
            raise WrongState
        return job

    def _take_target(self, job: Job) -> None:
        holder = self.targets.get(job.locations_digest, job.id)
        if holder != job.id and holder in self.jobs and self.jobs[holder].state in OPEN:
            raise TargetTaken
        self.targets[job.locations_digest] = job.id

    def _count(self, name: str, number: float) -> None:
        self.totals.setdefault("since", self.now)
        self.totals[name] = self.totals.get(name, 0) + number
