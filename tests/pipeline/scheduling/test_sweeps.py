"""When the dispatcher starts a sweep: a real Redis, and real processes in the place of the command."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.scheduling.sweeps import SweepScheduler, SweepStateStore
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import Job

NAME = "night"
MISSED = timedelta(minutes=10)
RETRY = 0.3
SECONDS = 60.0


def sweep(deadline: timedelta | None = None) -> Sweep:
    """A sweep whose last start was `MISSED` ago, with its deadline so long after now."""
    start = datetime.now(UTC) - MISSED
    values = {"source": "/photos", "target": "/out", "schedule": f"{start:%M %H} * * *"}
    if deadline is not None:
        values["deadline"] = f"{datetime.now(UTC) + deadline:%H:%M:%S}"
    return Sweep.model_validate(values)


@dataclass
class Command:
    """Stands for the process of a run: each process ends with the next of `codes`, the last with 0."""

    codes: list[int] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def __call__(self, name: str, due: datetime) -> subprocess.Popen[bytes]:
        code = self.codes[len(self.processes)] if len(self.processes) < len(self.codes) else 0
        ending = f"os._exit({code})" if code >= 0 else f"os.kill(os.getpid(), {-code})"
        process = subprocess.Popen([sys.executable, "-c", f"import os; {ending}"])
        self.processes.append(process)
        self.times.append(time.monotonic())
        return process

    def await_ends(self) -> None:
        for process in self.processes:
            process.wait(SECONDS)


@pytest.fixture
def command() -> Iterator[Command]:
    command = Command()
    yield command
    command.await_ends()


@pytest.fixture
def records(client: RedisClient) -> SweepStateStore:
    """Of a sweep that was first seen an hour ago."""
    records = SweepStateStore(client)
    records.read(NAME, datetime.now(UTC) - timedelta(hours=1))
    return records


@pytest.fixture
def sweeper(
    records: SweepStateStore, session: Session, command: Command
) -> Callable[[Sweep], SweepScheduler]:
    """`sweeper(sweep)`: another one, as of another dispatcher."""
    return lambda sweep: scheduler(session, sweep, command)


def scheduler(session: Session, sweep: Sweep, command: Command) -> SweepScheduler:
    settings = session.settings
    dispatch = settings.dispatch.model_copy(update={"sweep_retry": RETRY})
    changes = {"sweeps": {NAME: sweep}, "dispatch": dispatch}
    return SweepScheduler(replace(session, settings=settings.model_copy(update=changes)), command)


def turns(sweeper: SweepScheduler, command: Command, count: int = 5) -> None:
    for _ in range(count):
        sweeper.step()
        command.await_ends()


def until(sweeper: SweepScheduler, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        sweeper.step()
        time.sleep(0.02)


def test_a_start_that_was_missed_is_caught_up_once(
    sweeper: Callable[[Sweep], SweepScheduler], command: Command
) -> None:
    first = sweeper(sweep())
    turns(first, command)
    assert len(command.processes) == 1
    turns(sweeper(sweep()), command)  # a dispatcher that takes over
    assert len(command.processes) == 1


def test_a_start_before_the_sweep_was_declared_was_not_missed(
    session: Session, command: Command
) -> None:
    turns(scheduler(session, sweep(), command), command)
    assert not command.processes


def test_a_start_is_not_caught_up_after_its_deadline(
    sweeper: Callable[[Sweep], SweepScheduler], command: Command
) -> None:
    turns(sweeper(sweep(deadline=-MISSED / 2)), command)
    assert not command.processes


def test_while_the_last_run_goes_on_nothing_starts_and_then_it_is_caught_up_once(
    sweeper: Callable[[Sweep], SweepScheduler],
    command: Command,
    job_store: JobStore,
    records: SweepStateStore,
    job: Job,
) -> None:
    job_store.open(job)
    job_store.start(job.id)  # with nothing to do it has finished ...
    busy = replace(job, out="/elsewhere", id=type(job.id)("busy"))
    job_store.open(busy)
    lease = Lease(records._client, keys.lease_of_job(busy.id), SECONDS)
    lease.acquire()
    records.write_run(NAME, busy.id, None)  # ... while this one is listed
    one = sweeper(sweep())
    turns(one, command)
    assert not command.processes
    records.write_run(NAME, job.id, None)
    turns(one, command)
    assert len(command.processes) == 1


def test_a_start_that_failed_is_tried_again_later_and_later_and_reported(
    sweeper: Callable[[Sweep], SweepScheduler],
    command: Command,
    records: SweepStateStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    command.codes = [4, -9, 4]
    one = sweeper(sweep(deadline=timedelta(hours=1)))
    until(one, lambda: len(command.processes) == 4)
    command.await_ends()
    turns(one, command)
    assert len(command.processes) == 4
    waited = [
        after - before for before, after in zip(command.times, command.times[1:], strict=False)
    ]
    assert all(seconds >= RETRY * 2**place for place, seconds in enumerate(waited))
    reported = [record for record in caplog.records if record.getMessage() == "sweep did not start"]
    assert [record.fields["failures"] for record in reported] == [1, 2, 3]
    record = records.read(NAME, datetime.now(UTC))
    assert (record.failures, record.retry_at) == (3, 0)


def test_another_dispatcher_takes_a_retry_over(
    sweeper: Callable[[Sweep], SweepScheduler], command: Command, records: SweepStateStore
) -> None:
    command.codes = [4]
    first = sweeper(sweep())
    until(first, lambda: records.read(NAME, datetime.now(UTC)).failures == 1)
    until(sweeper(sweep()), lambda: len(command.processes) == 2)


@pytest.mark.parametrize("code", [2, 3])
def test_what_waiting_does_not_mend_is_not_tried_again(
    sweeper: Callable[[Sweep], SweepScheduler],
    command: Command,
    records: SweepStateStore,
    code: int,
) -> None:
    command.codes = [code]
    turns(sweeper(sweep()), command)
    assert len(command.processes) == 1
    assert records.read(NAME, datetime.now(UTC)).retry_at == 0


def test_nothing_is_tried_again_after_the_deadline(
    sweeper: Callable[[Sweep], SweepScheduler],
    command: Command,
    records: SweepStateStore,
    client: RedisClient,
) -> None:
    start = datetime.now(UTC)
    records.write_start(NAME, start)
    records.write_failure(NAME, 1, start)
    turns(sweeper(sweep(deadline=-MISSED / 2)), command)
    assert not command.processes
    assert records.read(NAME, datetime.now(UTC)).retry_at == 0


def test_a_listing_that_was_left_is_taken_up(
    sweeper: Callable[[Sweep], SweepScheduler],
    command: Command,
    job_store: JobStore,
    records: SweepStateStore,
    job: Job,
) -> None:
    job_store.open(job)
    records.write_start(NAME, datetime.now(UTC))
    records.write_run(NAME, job.id, None)
    one = sweeper(sweep())
    one.step()
    assert records.read(NAME, datetime.now(UTC)).failures == 1
    until(one, lambda: len(command.processes) == 1)
