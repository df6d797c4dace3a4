"""Every Redis key of ours, all under one prefix.

The queue's own key is the queue's name (config/defaults.toml), and kombu keeps its bindings under
`_kombu.`; both are Celery's. The unacknowledged messages are kombu's too, under our names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.types import JobId

PREFIX = "bgpipe:"
JOBS = PREFIX + "jobs"
"""Sorted set: job id -> Unix time of creation."""
UNACKED = PREFIX + "unacked"
"""Hash of kombu: messages delivered and not acknowledged."""

JOB_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job. Bits and hash fields are indices of its manifest."""

    head: str
    """Hash: what was asked for, state, times and counters."""
    manifest: str
    """Hash: block number -> packed items."""
    claimed: str
    """Bitmap: was claimed at least once."""
    done: str
    """Bitmap: ended well."""
    failed: str
    """Bitmap: given up."""
    running: str
    """Hash: index -> who works on it. In flight only."""
    repeats: str
    """Hash: index -> claims after the first. Images that needed more than one only."""
    errors: str
    """Hash: index -> code and detail. Failed images only."""


def of_job(job: JobId) -> JobKeys:
    """The keys of `job`.

    Raises:
        UsageError: it is no possible name of a job.

    """
    if not JOB_NAME.fullmatch(job):
        raise UsageError(
            f"not a job's name: {job!r}: use up to 64 letters, digits, dots, dashes and underscores"
        )
    head = f"{PREFIX}job:{job}"
    return JobKeys(
        head=head,
        manifest=f"{head}:manifest",
        claimed=f"{head}:claimed",
        done=f"{head}:done",
        failed=f"{head}:failed",
        running=f"{head}:running",
        repeats=f"{head}:repeats",
        errors=f"{head}:errors",
    )


def of_worker(name: str) -> str:
    """Hash with a time to live: the heartbeat of the worker that claims under this name."""
    return f"{PREFIX}worker:{name}"
