"""`bgpipe submit --watch`: a job for each batch of new files."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, count

from bgpipe.pipeline.cli.console import Console, short_location
from bgpipe.pipeline.cli.run import JobRun, open_job, run_to_completion, run_worker
from bgpipe.pipeline.errors import NoImages, StorageUnavailable
from bgpipe.pipeline.planning.ignored import IgnoredObjects
from bgpipe.pipeline.planning.planner import select_sources
from bgpipe.pipeline.planning.prune import Prune
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import Job, JobId

POLL = 2.0
"""Seconds between two listings of a folder. A file that did not change in between is complete."""
BUCKET_POLL = 30.0
"""Seconds between two listings of a bucket, which costs requests; its objects are always complete."""


def watch_source(session: Session, console: Console, job: Job, prune: Prune | None) -> int:
    """Run jobs like `job` until interrupted; only the first prunes. Returns the exit code.

    Raises:
        KeyboardInterrupt: a job was running.
        Unavailable: see `run_to_completion`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print(f"watching {short_location(job.source)}: stop with Ctrl-C")
    names = chain([job.id], (JobId(f"{job.id}-{number}") for number in count(2)))
    with run_worker(session) if session.settings.embedded else nullcontext() as worker:
        for growing in _arrivals(session, console, job):
            batch = replace(job, id=next(names), created=time.time())
            job_id, lease = open_job(session, console, batch)
            try:
                run_to_completion(
                    console, JobRun(session, job_id, lease, growing, prune, worker), wait=True
                )
            except NoImages as error:
                console.warn(f"bgpipe: {error}")
            prune = None
    return 0


def _arrivals(session: Session, console: Console, job: Job) -> Iterator[frozenset[str]]:
    """Wait for complete images that are new or changed; yields the keys of incomplete ones.

    Ends when it is interrupted while waiting.
    """
    is_bucket = session.stores.open(job.source).is_remote
    seen: Mapping[str, str] = {}
    previous: Mapping[str, str] = {}
    try:
        while True:
            current = _list_images(session, console, job) or previous
            complete = current if is_bucket else dict(current.items() & previous.items())
            previous = current
            if not complete.items() <= seen.items():
                seen = complete
                yield frozenset(current.keys() - complete.keys())
            time.sleep(BUCKET_POLL if is_bucket else POLL)
    except KeyboardInterrupt:
        return


def _list_images(session: Session, console: Console, job: Job) -> Mapping[str, str]:
    """Map the images' keys to identities; empty while the source cannot be listed."""
    source, target = session.stores.open(job.source), session.stores.open(job.out)
    try:
        images = select_sources(job, source.list(), source, target, IgnoredObjects())
        return {entry.key: entry.identity for entry in images}
    except StorageUnavailable as error:
        console.warn(f"bgpipe: {error}")
        return {}
