"""All Redis keys of bgpipe, under one prefix.

Celery's own keys are the queue's, named by the settings, and kombu's bindings under `_kombu.`. The
unacknowledged messages are kombu's as well, under names given here.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.types import JobId

PREFIX = "bgpipe:"
JOBS = PREFIX + "jobs"
"""Sorted set: job id -> Unix time of creation."""
JOB_PREFIX = PREFIX + "job:"
TOTALS = PREFIX + "totals"
"""Hash: numbers of images by outcome, of all jobs ever, and the time of the first."""

UNACKED = PREFIX + "unacked"
"""Hash of kombu: messages delivered and not acknowledged."""
UNACKED_INDEX = PREFIX + "unacked_index"
"""Sorted set of kombu: the same messages -> Unix time of delivery."""

FENCE = PREFIX + "fence"
"""Counter: the last fencing token."""
DISPATCH = "dispatch"
"""Lease of the dispatcher that leads a cluster."""
MAINTENANCE = "attend"
"""Lease of the HTTP server that maintains the jobs of all."""

ACCESS = PREFIX + "access"
"""Hash: sha256 of an API key -> its owner."""
SERVED = PREFIX + "served"
"""Sorted set: owner/job of the HTTP service, until its end is reported -> Unix time of creation."""
FOLDERS = PREFIX + "kept"
"""Sorted set: folder of uploads or results below the servers' own -> Unix time of its last use."""

PROMPTS = PREFIX + "comfyui:"
"""Prefix of the keys of ComfyUI's prompts; all have a time to live."""
PROMPT_NUMBERS = PROMPTS + "number"
"""Counter: the last number of a prompt."""

JOB_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job. Bits and hash fields are indices of its manifest."""

    head: str
    """Hash: record, state, times, counters, and the fencing token that wrote last."""
    named: str
    """String: the packed keys that the submitter named, until they are listed."""
    manifest: str
    """Hash: block number -> packed items."""
    claimed: str
    """Bitmap: claimed at least once."""
    done: str
    """Bitmap: a cutout exists."""
    failed: str
    """Bitmap: failed for good."""
    running: str
    """Hash: index -> worker of the last claim. Items in flight only."""
    repeats: str
    """Hash: index -> claims after the first. Items that needed more than one only."""
    errors: str
    """Hash: index -> code and detail. Failed items only."""
    flags: str
    """Hash: index -> a bit for each flag of the cutout. Flagged items only."""
    fingerprints: str
    """String: eight bytes for each cutout that was written, in the order of the items."""

    def all(self) -> tuple[str, ...]:
        """Return every key, the head first."""
        return astuple(self)


# In the order of the fields of JobKeys.
_JOB_PARTS = (
    *("named", "manifest", "claimed", "done", "failed"),
    *("running", "repeats", "errors", "flags", "seals"),
)


def of_job(job: JobId) -> JobKeys:
    """Return the keys of `job`.

    Raises:
        UsageError: it is not a valid name of a job.

    """
    if not JOB_NAME.fullmatch(job):
        raise UsageError(
            f"not a job's name: {job!r}: use up to 64 letters, digits, dots, dashes and underscores"
        )
    head = f"{JOB_PREFIX}{job}"
    return JobKeys(head, *(f"{head}:{part}" for part in _JOB_PARTS))


def of_lease(name: str) -> str:
    """Hash with a time to live: holder and fencing token of the lease `name`."""
    return f"{PREFIX}lease:{name}"


def lease_of_job(job: JobId) -> str:
    """Name of the lease of the process that leads `job`."""
    return f"job:{job}"


def of_locations(digest: str) -> str:
    """String: the last job with this source and target."""
    return f"{PREFIX}place:{digest}"


def of_sweep(name: str) -> str:
    """Hash: state of the sweep `name`."""
    return f"{PREFIX}sweep:{name}"


def of_owner(owner: str) -> str:
    """Sorted set: jobs of this caller of the HTTP service -> Unix time of creation."""
    return f"{PREFIX}owner:{owner}"


def of_open_jobs(owner: str) -> str:
    """Set: open jobs of this caller; a job leaves it shortly after its end."""
    return f"{PREFIX}open:{owner}"


def of_rate(owner: str, minute: int) -> str:
    """String with a time to live: number of this caller's requests in the minute."""
    return f"{PREFIX}rate:{owner}:{minute}"


def of_session(digest: str) -> str:
    """String with a time to live: digest of the API key of a browser's session."""
    return f"{PREFIX}visit:{digest}"


def of_worker(name: str) -> str:
    """Hash with a time to live: heartbeat of the worker that claims under this name."""
    return f"{PREFIX}worker:{name}"


def of_prompt(prompt: str) -> str:
    """String: a prompt of ComfyUI's interface as JSON."""
    return f"{PROMPTS}prompt:{prompt}"


def prompts_of(owner: str) -> str:
    """Sorted set: prompts of this caller -> Unix time of creation."""
    return f"{PROMPTS}owner:{owner}"


def open_prompts_of(owner: str) -> str:
    """Sorted set: open prompts of this caller -> number."""
    return f"{PROMPTS}open:{owner}"


def unreported_prompts_of(owner: str, client: str) -> str:
    """Sorted set: prompts whose end was not yet reported to this client -> number. `client` is a digest."""
    return f"{PROMPTS}untold:{owner}:{client}"


def listener_of(owner: str, client: str) -> str:
    """String with a time to live of seconds: this client has a websocket. `client` is a digest."""
    return f"{PROMPTS}listener:{owner}:{client}"


def prompt_names_of(owner: str) -> str:
    """Hash: prefix of this caller's files -> number of files with it."""
    return f"{PROMPTS}names:{owner}"


def prompt_file_of(owner: str, name: str) -> str:
    """String: location of an output file as JSON. `name` is a digest."""
    return f"{PROMPTS}file:{owner}:{name}"


def user_files_of(owner: str) -> str:
    """Hash: path of a file that this caller's clients keep -> Unix time in milliseconds, a line, content."""
    return f"{PROMPTS}files:{owner}"


def input_images_of(owner: str) -> str:
    """Sorted set: images that this caller uploaded for prompts -> Unix time."""
    return f"{PROMPTS}photos:{owner}"


def input_image_of(owner: str, name: str) -> str:
    """String: upload and key of an input image. `name` is a digest."""
    return f"{PROMPTS}photo:{owner}:{name}"
