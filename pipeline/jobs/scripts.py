"""The Lua scripts of the job store: each change happens at once or not at all, also if sent twice."""

from collections.abc import Sequence
from typing import Any, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, run_lua
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.types import JobId

REFUSED = 0
UNKNOWN_JOB = -1
NO_SUCH_ITEM = -2
SUPERSEDED = -3
WRONG_STATE = -4
PAUSED = 2


class JobNotFound(UsageError):
    def __init__(self, job: str) -> None:
        super().__init__(f"unknown job: {job}: list the known jobs with bgpipe jobs")


class LeaseLost(UsageError):
    """Another command leads the job now; this one may only watch."""


class JobConflict(UsageError):
    """Another job with the same source and target is open."""

    def __init__(self, job: JobId) -> None:
        super().__init__(f"another job does this already: {job}: bgpipe status {job}")
        self.job = job


def run_script(
    client: RedisClient, name: str, names: Sequence[str], *args: str | bytes | float
) -> Any:  # noqa: ANN401  # the script's reply
    """Run lua/NAME.lua, behind lua/common.lua, with the keys `names`."""
    return run_lua(client, __package__, "common", name, keys=names, args=args)


def change_job(
    client: RedisClient,
    name: str,
    job: JobId,
    names: Sequence[str],
    *args: str | bytes | float,
    wrong_state: str = "",
    no_item: str = "",
) -> Any:  # noqa: ANN401  # the script's reply
    """Run a script that changes `job`; one that claims its target returns the target's holder.

    Raises JobNotFound, LeaseLost, JobConflict, or UsageError with one of the given messages.
    """
    reply = run_script(client, name, names, *args)
    if reply == UNKNOWN_JOB:
        raise JobNotFound(job)
    if reply == NO_SUCH_ITEM:
        raise UsageError(no_item)
    if reply == SUPERSEDED:
        raise LeaseLost(f"another command leads job {job} now: bgpipe status {job} --watch")
    if reply == WRONG_STATE:
        raise UsageError(wrong_state or f"job {job} was cancelled: bgpipe resume {job} goes on")
    if isinstance(reply, bytes) and reply.decode() != job:
        raise JobConflict(JobId(reply.decode()))
    return reply


def read_head(client: RedisClient, job: JobId, field: str) -> bytes:
    """Return a field that the head of every job has; JobNotFound without one."""
    value = cast("bytes | None", client.hget(keys.of_job(job).head, field))
    if value is None:
        raise JobNotFound(job)
    return value
