"""The Lua scripts of the job store: each change happens at once or not at all.

A connection may break between a change and its reply, so each script may be sent twice: the second
time it changes nothing. What can fail, such as a key of a wrong type, precedes every change of a
counter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bgpipe.pipeline.broker.client import load_lua
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.types import JobId

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.client import RedisClient

Reply = TypeVar("Reply")

REFUSED = 0
UNKNOWN_JOB = -1
NO_SUCH_ITEM = -2
SUPERSEDED = -3
WRONG_STATE = -4


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
    client: RedisClient, name: str, keys: Sequence[str], *args: str | bytes | float
) -> Any:  # noqa: ANN401  # the script's reply
    """Run lua/NAME.lua, behind lua/common.lua."""
    return load_lua(client, __package__, "common", name)(keys=keys, args=args)


def check_reply(reply: Reply, job: JobId, wrong_state: str = "") -> Reply:
    """Return a script's reply.

    Raises:
        JobNotFound: the job does not exist.
        LeaseLost: a newer token has written.
        UsageError: the job is in another state; the message is `wrong_state`.

    """
    if reply == UNKNOWN_JOB:
        raise JobNotFound(job)
    if reply == SUPERSEDED:
        raise LeaseLost(f"another command leads job {job} now: bgpipe status {job} --watch")
    if reply == WRONG_STATE:
        raise UsageError(wrong_state or f"job {job} was cancelled: bgpipe resume {job} goes on")
    return reply
