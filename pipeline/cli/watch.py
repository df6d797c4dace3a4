"""`bgpipe submit --watch`: a job for what has arrived, again and again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.console import Console, short_location
from bgpipe.pipeline.cli.run import open_job, run_to_completion
from bgpipe.pipeline.errors import NoImages, StorageUnavailable

if TYPE_CHECKING:
    from bgpipe.pipeline.processes import ChildProcess
    from bgpipe.pipeline.session import Session
    from bgpipe.pipeline.types import Job, JobId

POLL = 2.0
"""Seconds between two listings of a folder. A file that did not change in between is complete."""
BUCKET_POLL = 30.0
"""Seconds between two listings of a bucket, which costs requests; its objects are always complete."""


def watch_source(session: Session, terminal: Console, job: Job) -> int:
    """Run jobs like `job` until interrupted; returns the exit code.

    Raises:
        KeyboardInterrupt: a job was running.
        Unavailable: as of `see_through`.

    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    terminal.print(f"watching {short_location(job.source)}: stop with Ctrl-C")
    names = _names(job)
    with _worker(session) as worker:
        for growing in _arrivals(session, terminal, job):
            batch = replace(job, id=next(names), created=time.time())
            _do_once(session, terminal, batch, growing, worker)
    return 0


@contextmanager
def _worker(session: Session) -> Iterator[ChildProcess | None]:
    """One for all batches, which keeps the model loaded; None in a cluster."""
    from bgpipe.pipeline.broker.embedded import worker

    settings = session.settings
    if not settings.embedded:
        yield None
        return
    folder, limit = settings.state_folder, settings.worker.drain_timeout
    with worker(session.redis_url, folder, limit) as child:
        yield child


def _do_once(
    session: Session,
    terminal: Console,
    job: Job,
    growing: frozenset[str],
    worker: ChildProcess | None,
) -> None:
    opened, lease = open_job(session, terminal, job)
    try:
        run_to_completion(
            session, terminal, opened, lease, wait=True, growing=growing, worker=worker
        )
    except NoImages as error:
        terminal.warn(f"bgpipe: {error}")


def _arrivals(session: Session, terminal: Console, job: Job) -> Iterator[frozenset[str]]:
    """Wait for complete images that are new or changed; yields the keys of incomplete ones.

    Ends at an interrupt while it waits.
    """
    is_bucket = session.stores.open(job.source).is_remote
    seen: Mapping[str, str] = {}
    before: Mapping[str, str] = {}
    try:
        while True:
            now = _listing(session, terminal, job) or before
            complete = now if is_bucket else dict(now.items() & before.items())
            before = now
            if not complete.items() <= seen.items():
                seen = complete
                yield frozenset(now.keys() - complete.keys())
            time.sleep(BUCKET_POLL if is_bucket else POLL)
    except KeyboardInterrupt:
        return


def _listing(session: Session, terminal: Console, job: Job) -> Mapping[str, str]:
    """The identities of the images by their keys; empty while the source cannot be listed."""
    from bgpipe.pipeline.planning.ignored import IgnoredObjects
    from bgpipe.pipeline.planning.planner import select_sources

    source, target = session.stores.open(job.source), session.stores.open(job.out)
    try:
        chosen = select_sources(job, source.list(), source, target, IgnoredObjects())
        return {entry.key: entry.identity for entry in chosen}
    except StorageUnavailable as error:
        terminal.warn(f"bgpipe: {error}")
        return {}


def _names(job: Job) -> Iterator[JobId]:
    """The job's own name first, then numbered ones."""
    from bgpipe.pipeline.types import JobId

    yield job.id
    yield from (JobId(f"{job.id}-{number}") for number in count(2))
