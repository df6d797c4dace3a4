"""Sweeps: when each one is to start, to stop and to be told of, as the dispatcher sees to it.

A run is a job like any other. It lists source and target anew, so a run that its deadline stopped
needs no mark of where it was: the next one finds what is done up to date and goes on with the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import Thread
from typing import Protocol, cast

from bgpipe.config.sweeps import Sweep
from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.schedule import deadline_of, last_start
from bgpipe.pipeline.types import Books, JobId, JobState
from bgpipe.pipeline.webhook import tell

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What was last done for a sweep. Times are Unix seconds; 0 where there is none."""

    since: float
    """When it was first seen: starts before that were not missed."""
    start: float
    """The start that was last dealt with."""
    job: JobId
    """Of the last run; empty if there was none."""
    until: float
    """The last run's deadline."""
    told: bool
    """Whether the end of the last run was told."""


class Records:
    """The records of all sweeps, in Redis."""

    def __init__(self, client: Connection) -> None:
        self._client = client

    def read(self, name: str, now: datetime) -> Record:
        key = keys.of_sweep(name)
        self._client.hsetnx(key, "since", str(now.timestamp()))
        found = cast("dict[bytes, bytes]", self._client.hgetall(key))
        values = {field.decode(): value.decode() for field, value in found.items()}
        return Record(
            since=float(values["since"]),
            start=float(values.get("start", 0)),
            job=JobId(values.get("job", "")),
            until=float(values.get("until", 0)),
            told="told" in values,
        )

    def start(self, name: str, start: datetime) -> None:
        """Say that the start at this time was dealt with."""
        self._client.hset(keys.of_sweep(name), "start", str(start.timestamp()))

    def begin(self, name: str, job: JobId, until: datetime | None) -> None:
        """Say that `job` is the sweep's run now, up to a deadline."""
        key = keys.of_sweep(name)
        self._client.hset(
            key, mapping={"job": job, "until": str(until.timestamp() if until else 0.0)}
        )
        self._client.hdel(key, "told")

    def end(self, name: str) -> None:
        """Say that the end of the last run was told, as far as that was possible."""
        self._client.hset(keys.of_sweep(name), "told", "1")


class Process(Protocol):
    """A command that starts a run, as a process of its own: listing a bucket takes a while."""

    def poll(self) -> int | None: ...


class Sweeper:
    """Starts, stops and tells of the sweeps. Call `turn` again and again, in one process only."""

    def __init__(
        self,
        sweeps: Mapping[str, Sweep],
        records: Records,
        ledger: Ledger,
        launch: Callable[[str, datetime], Process],
    ) -> None:
        """`launch` starts the sweep of a name, whose start was due at a time."""
        self._sweeps = sweeps
        self._records = records
        self._ledger = ledger
        self._launch = launch
        self._launched: dict[str, Process] = {}
        self._telling: dict[str, Thread] = {}

    def turn(self) -> None:
        """Do once what there is to do for every sweep."""
        now = datetime.now(UTC)
        for name, sweep in self._sweeps.items():
            record = self._records.read(name, now)
            books = self._books(record.job)
            if books and books.state in {JobState.LISTING, JobState.RUNNING}:
                self._stop_if_late(name, record, now)
            elif books and books.state is JobState.FINISHED and not record.told:
                self._tell(name, sweep, books)
            if not self._is_starting(name):
                self._start_if_due(name, sweep, record, books, now)

    def _start_if_due(
        self, name: str, sweep: Sweep, record: Record, books: Books | None, now: datetime
    ) -> None:
        start = last_start(sweep, now)
        if start is None or start.timestamp() <= max(record.since, record.start):
            return
        if books and books.state in {JobState.LISTING, JobState.RUNNING}:
            return  # the last run goes on; this start is caught up when it has ended
        until = deadline_of(sweep, start)
        if until is None or now < until:
            log.info("sweep starts", extra={"fields": {"sweep": name, "due": start.isoformat()}})
            self._launched[name] = self._launch(name, start)
        # After the launch: a dispatcher that dies in between launches twice, and the ledger refuses
        # the second job.
        self._records.start(name, start)

    def _stop_if_late(self, name: str, record: Record, now: datetime) -> None:
        if 0 < record.until <= now.timestamp():
            log.info("sweep reached its deadline", extra={"fields": {"sweep": name}})
            stop(self._ledger, record.job)

    def _tell(self, name: str, sweep: Sweep, books: Books) -> None:
        """In a thread: whoever is told may be slow, and the jobs do not wait for it."""
        thread = self._telling.get(name)
        if thread is None or not thread.is_alive():
            arguments = (self._records, name, sweep, books)
            thread = Thread(target=report_end, args=arguments, name="webhook", daemon=True)
            self._telling[name] = thread
            thread.start()

    def _is_starting(self, name: str) -> bool:
        """Whether the command that starts a run is at work; one that failed is told of."""
        process = self._launched.get(name)
        if process is None:
            return False
        code = process.poll()
        if code is None:
            return True
        del self._launched[name]
        if code:
            log.error("sweep did not start", extra={"fields": {"sweep": name, "exit": code}})
        return False

    def _books(self, job: JobId) -> Books | None:
        try:
            return self._ledger.books(job) if job else None
        except UsageError:
            return None  # forgotten since


def stop(ledger: Ledger, job: JobId) -> None:
    """Let nothing more of a sweep's run be done."""
    try:
        ledger.cancel(job)
    except UsageError:
        log.info("sweep ended just in time", extra={"fields": {"job": job}})


def report_end(records: Records, name: str, sweep: Sweep, books: Books) -> None:
    """Send the books of a finished run to the sweep's address, if it has one."""
    if sweep.on_finish:
        message = {"sweep": name} | asdict(books)
        trouble = tell(sweep.on_finish, message, sweep.secret.get_secret_value(), books.job)
        if trouble:
            fields = {"sweep": name, "error": trouble}
            log.error("nobody could be told of a sweep's end", extra={"fields": fields})
    records.end(name)
