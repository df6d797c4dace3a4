"""Every Redis key of ours, all under one prefix.

The queue's own key is the queue's name (config/defaults.toml), and kombu keeps its bindings under
`_kombu.`; both are Celery's. The unacknowledged messages are kombu's too, under our names.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.types import JobId

PREFIX = "bgpipe:"
JOBS = PREFIX + "jobs"
"""Sorted set: job id -> Unix time of creation."""
UNACKED = PREFIX + "unacked"
"""Hash of kombu: messages delivered and not acknowledged."""

UNACKED_INDEX = PREFIX + "unacked_index"
"""Sorted set of kombu: the same messages -> Unix time of delivery."""
TOTALS = PREFIX + "totals"
"""Hash: how many images ended in which way, of all jobs that ever were, and since when."""

HEAD = PREFIX + "job:"
"""What the keys of every job begin with."""
FENCE = PREFIX + "fence"
"""Counter: the last fencing token that was given out."""
DISPATCH = "dispatch"
"""The lease of whoever leads a cluster's dispatchers."""
ATTEND = "attend"
"""The lease of whoever leads the attendants of the HTTP servers."""

ACCESS = PREFIX + "access"
"""Hash: the sha256 of each API key -> whose it is."""
SERVED = PREFIX + "served"
"""Sorted set: owner/job asked for over HTTP and not told to be over -> Unix time of creation."""
KEPT = PREFIX + "kept"
"""Sorted set: folder of uploads or results below the servers' own -> Unix time of its last use."""

PROMPTS = PREFIX + "comfyui:"
"""What the keys of ComfyUI's prompts begin with; all of them have a time to live."""
PROMPT_NUMBERS = PROMPTS + "number"
"""Counter: the last number of a prompt."""

JOB_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job. Bits and hash fields are indices of its manifest."""

    head: str
    """Hash: what was asked for, state, times, counters and the fencing token that wrote last."""
    named: str
    """String: the packed keys that the submitter named, until they are listed."""
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
    flags: str
    """Hash: index -> a bit for each flag of the cutout. Flagged images only."""
    seals: str
    """String: eight bytes for each cutout that was made, at the place of its index."""

    def all(self) -> tuple[str, ...]:
        """Every key, the head first."""
        return astuple(self)


def of_job(job: JobId) -> JobKeys:
    """The keys of `job`.

    Raises:
        UsageError: it is no possible name of a job.

    """
    if not JOB_NAME.fullmatch(job):
        raise UsageError(
            f"not a job's name: {job!r}: use up to 64 letters, digits, dots, dashes and underscores"
        )
    head = f"{HEAD}{job}"
    return JobKeys(
        head=head,
        named=f"{head}:named",
        manifest=f"{head}:manifest",
        claimed=f"{head}:claimed",
        done=f"{head}:done",
        failed=f"{head}:failed",
        running=f"{head}:running",
        repeats=f"{head}:repeats",
        errors=f"{head}:errors",
        flags=f"{head}:flags",
        seals=f"{head}:seals",
    )


def of_lease(name: str) -> str:
    """Hash with a time to live: who holds the lease of this name, and its fencing token."""
    return f"{PREFIX}lease:{name}"


def lease_of_job(job: JobId) -> str:
    """The name of the lease of whoever leads `job`."""
    return f"job:{job}"


def of_place(digest: str) -> str:
    """String: the last job that read and wrote there."""
    return f"{PREFIX}place:{digest}"


def of_sweep(name: str) -> str:
    """Hash: what was last done for the sweep of this name."""
    return f"{PREFIX}sweep:{name}"


def of_owner(owner: str) -> str:
    """Sorted set: the jobs that this caller asked for over HTTP -> Unix time of creation."""
    return f"{PREFIX}owner:{owner}"


def of_open_jobs(owner: str) -> str:
    """Set: those of the jobs of this caller that are not over, and a little longer."""
    return f"{PREFIX}open:{owner}"


def of_rate(owner: str, minute: int) -> str:
    """String with a time to live: how many requests this caller has made in the minute."""
    return f"{PREFIX}rate:{owner}:{minute}"


def of_session(digest: str) -> str:
    """String with a time to live: the digest of the API key that a browser was let in with."""
    return f"{PREFIX}visit:{digest}"


def of_worker(name: str) -> str:
    """Hash with a time to live: the heartbeat of the worker that claims under this name."""
    return f"{PREFIX}worker:{name}"


def of_prompt(prompt: str) -> str:
    """String: a prompt of ComfyUI's interface as JSON."""
    return f"{PROMPTS}prompt:{prompt}"


def prompts_of(owner: str) -> str:
    """Sorted set: the prompts of this caller -> Unix time of creation."""
    return f"{PROMPTS}owner:{owner}"


def open_prompts_of(owner: str) -> str:
    """Sorted set: those of them that were not seen to end -> number."""
    return f"{PROMPTS}open:{owner}"


def untold_prompts_of(owner: str, client: str) -> str:
    """Sorted set: those whose end this client was not told -> number. `client` is a digest."""
    return f"{PROMPTS}untold:{owner}:{client}"


def prompt_names_of(owner: str) -> str:
    """Hash: a prefix of this caller's files -> how many have it."""
    return f"{PROMPTS}names:{owner}"


def prompt_file_of(owner: str, name: str) -> str:
    """String: where the file of this name lies, as JSON. `name` is a digest."""
    return f"{PROMPTS}file:{owner}:{name}"


def prompt_photos_of(owner: str) -> str:
    """Sorted set: the photos that this caller uploaded for prompts -> Unix time."""
    return f"{PROMPTS}photos:{owner}"


def prompt_photo_of(owner: str, name: str) -> str:
    """String: the upload and the key of the photo of this name. `name` is a digest."""
    return f"{PROMPTS}photo:{owner}:{name}"
