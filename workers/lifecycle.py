"""Start and end of worker processes: what the supervisor and its workers share.

The supervisor imports this module before it starts its workers, so the top imports the standard
library alone.

A process of ours ends with its parent: the parent holds the write end of a pipe and never writes.
The kernel closes that end however the parent dies, and the child reads the end of the file.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from bgpipe.pipeline.errors import BgpipeError, UsageError
from bgpipe.pipeline.logging import EventLogger, LogFormat, log_to_stderr

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings

EXIT_RESTART = 75
"""Exit code of a worker that asks for a successor: EX_TEMPFAIL of sysexits.h."""
READY = b"ready\n"
"""Written by a worker to its stdout once it takes messages."""
GRACE = 5.0
"""Seconds beyond the drain timeout after which a process is killed."""

log = EventLogger(__name__)


class WorkerShuttingDown(BgpipeError):
    """The worker ended before the image was done; the image is not at fault."""


def exit_now(code: int) -> NoReturn:
    """End this process without waiting for threads, some of which may be stuck."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def on_parent_exit(descriptor: int, action: Callable[[], None]) -> None:
    """Call `action` in a thread once the pipe behind `descriptor` ends."""

    def wait() -> None:
        try:
            while os.read(descriptor, 4096):
                pass
        finally:  # a thread that fails must not leave this process behind
            action()

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def run_entry_point(work: Callable[[], int], worker: str = "") -> int:
    """Return the exit code of `work`; a BgpipeError becomes an event and its exit code.

    `worker` ends every line of the log, which the workers of a machine share.
    """
    from bgpipe.config.settings import load_settings

    try:
        style = load_settings().log.format
    except BgpipeError:
        style = LogFormat.TEXT  # `work` reports the wrong settings
    log_to_stderr(style, {"worker": worker} if worker else {})
    try:
        return work()
    except BgpipeError as error:
        log.critical("cannot work", error=str(error))
        return error.exit_code


def worker_settings() -> Settings:
    """Return the settings; raise UsageError if one is wrong, or no Redis is configured."""
    from bgpipe.config.settings import load_settings

    settings = load_settings()
    if settings.embedded:
        raise UsageError("no Redis configured for workers: set BGPIPE_REDIS_URL")
    return settings
