"""All Redis keys of bgpipe, under one prefix.

Celery's own keys are the queue's, named by the settings, and kombu's bindings under `_kombu.`. The
unacknowledged messages are kombu's as well, under names given here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.pipeline.types import JobId

PREFIX = "bgpipe:"
"""The beginning of every key."""
JOBS = "bgpipe:jobs"
"""Sorted set: job id -> Unix time of creation."""
RUNNING = "bgpipe:running"
"""Sorted set: jobs that run -> Unix time of creation; those that ended leave it as it is read."""
JOB_PREFIX = "bgpipe:job:"
TOTALS = "bgpipe:totals"
"""Hash: numbers of images by outcome, of all jobs ever, and the time of the first."""

UNACKED = "bgpipe:unacked"
"""Hash of kombu: messages delivered and not acknowledged."""
UNACKED_INDEX = "bgpipe:unacked_index"
"""Sorted set of kombu: the same messages -> Unix time of delivery."""
DEAD = "bgpipe:dead-messages"
"""List: unreadable messages with their reason as JSON, the newest first."""

FENCE = "bgpipe:fence"
"""Counter: the last fencing token."""
DISPATCH = "dispatch"
"""Lease of the dispatcher that leads a cluster."""
MAINTENANCE = "attend"
"""Lease of the HTTP server that maintains the jobs of all."""

ACCESS = "bgpipe:access"
"""Hash: sha256 of an API key -> its owner."""
SERVED = "bgpipe:served"
"""Sorted set: owner/job of the HTTP service, until its end is reported -> Unix time of creation."""
FOLDERS = "bgpipe:kept"
"""Sorted set: folder of uploads or results below the servers' own -> Unix time of its last use."""
USAGE = "bgpipe:usage"
"""Hash: caller of the HTTP service -> bytes of its uploads and results, recounted now and then."""

PROMPTS = "bgpipe:comfyui:"
"""Prefix of the keys of ComfyUI's prompts; all have a time to live."""
PROMPT_NUMBERS = "bgpipe:comfyui:number"
"""Counter: the last number of a prompt."""

JOB_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class JobKeys(NamedTuple):
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
    scores: str
    """String: a byte for each item, 1 more than the hundredths of its score; 0 without one."""
    fingerprints: str
    """String: eight bytes for each cutout that was written, in the order of the items."""


def of_job(job: JobId) -> JobKeys:
    """Return the keys of `job`; UsageError if it is not a valid name of a job."""
    if not JOB_NAME.fullmatch(job):
        raise UsageError(
            f"not a job's name: {job!r}: use up to 64 letters, digits, dots, dashes and underscores"
        )
    head = f"{JOB_PREFIX}{job}"
    parts = (*JobKeys._fields[1:-1], "seals")  # the last one is older than its field's name
    return JobKeys(head, *(f"{head}:{part}" for part in parts))


lease_of_job: Callable[[JobId], str] = "job:{}".format
"""Name of the lease of the process that leads a job."""
of_lease: Callable[[str], str] = "bgpipe:lease:{}".format
"""Hash with a time to live: holder and fencing token of a lease, by its name."""
of_locations: Callable[[str], str] = "bgpipe:place:{}".format
"""String: the last job with the source and target of a digest."""
of_sweep: Callable[[str], str] = "bgpipe:sweep:{}".format
"""Hash: state of a sweep, by its name."""
of_owner: Callable[[str], str] = "bgpipe:owner:{}".format
"""Sorted set: jobs of a caller of the HTTP service -> Unix time of creation."""
of_open_jobs: Callable[[str], str] = "bgpipe:open:{}".format
"""Set: open jobs of a caller; a job leaves it shortly after its end."""
of_rate: Callable[[str, int], str] = "bgpipe:rate:{}:{}".format
"""String with a time to live: number of a caller's requests in a minute."""
of_session: Callable[[str], str] = "bgpipe:visit:{}".format
"""String with a time to live: digest of the API key of a browser's session, by the session's digest."""
of_worker: Callable[[str], str] = "bgpipe:worker:{}".format
"""Hash with a time to live: heartbeat of the worker that claims under this name."""

of_prompt: Callable[[str], str] = "bgpipe:comfyui:prompt:{}".format
"""String: a prompt of ComfyUI's interface as JSON."""
prompts_of: Callable[[str], str] = "bgpipe:comfyui:owner:{}".format
"""Sorted set: prompts of a caller -> Unix time of creation."""
open_prompts_of: Callable[[str], str] = "bgpipe:comfyui:open:{}".format
"""Sorted set: open prompts of a caller -> number."""
unreported_prompts_of: Callable[[str, str], str] = "bgpipe:comfyui:untold:{}:{}".format
"""Sorted set: a caller's prompts whose end was not yet reported to a client, by its digest -> number."""
listener_of: Callable[[str, str], str] = "bgpipe:comfyui:listener:{}:{}".format
"""String with a time to live of seconds: a caller's client, by its digest, has a websocket."""
prompt_names_of: Callable[[str], str] = "bgpipe:comfyui:names:{}".format
"""Hash: prefix of a caller's files -> number of files with it."""
prompt_file_of: Callable[[str, str], str] = "bgpipe:comfyui:file:{}:{}".format
"""String: location of a caller's output file as JSON, by the digest of its name."""
user_files_of: Callable[[str], str] = "bgpipe:comfyui:files:{}".format
"""Hash: path of a file that a caller's clients keep -> content."""
input_images_of: Callable[[str], str] = "bgpipe:comfyui:photos:{}".format
"""Sorted set: images that a caller uploaded for prompts -> Unix time."""
input_image_of: Callable[[str, str], str] = "bgpipe:comfyui:photo:{}:{}".format
"""String: upload and key of a caller's input image, by the digest of its name."""
