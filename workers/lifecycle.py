"""How a worker process ends: warmly, unless it is told twice.

Ties a process's life to its parent's, on every system and however the parent dies.

The parent holds the writing end of a pipe and never writes. The kernel closes it with the parent,
and whoever reads the other end learns of it.

What both kinds of process begin and end with: settings, events, exit codes.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from celery.worker import state

from bgpipe.config.choices import LogFormat
from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.errors import BgpipeError, UsageError
from bgpipe.pipeline.logging import log_to_stderr
from bgpipe.pipeline.session import read_settings

EXIT_RESTART = 75
"""Exit code of a worker that another process should replace: EX_TEMPFAIL of sysexits.h."""
SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)

log = logging.getLogger(__name__)


class WorkerShuttingDown(BgpipeError):
    """The worker leaves before an image was done, which is not to blame."""


def request_shutdown(code: int = 0) -> None:
    """Let this process's Celery worker drain and return `code`. Any thread may call."""
    state.should_stop = code


def install_signal_handlers() -> None:
    """Drain at the first signal that asks to stop; leave at once at the second.

    USR1 makes the process print where each of its threads is.
    """
    told = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal told
        del frame
        if told:
            os._exit(128 + number)
        told = True
        request_shutdown(state.should_stop or 0)

    faulthandler.register(signal.SIGUSR1)
    for number in SIGNALS:
        signal.signal(number, on_signal)


def exit_now(code: int) -> NoReturn:
    """End this process without waiting for threads: those that are stuck would keep it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


READY = b"ready\n"
"""What a worker writes to its stdout once it takes messages."""
GRACE = 5.0
"""Seconds beyond the drain timeout after which a process that should have left is ended."""


def on_parent_exit(descriptor: int, action: Callable[[], None]) -> None:
    """Call `action` in a thread of its own once the pipe behind `descriptor` ends."""

    def wait() -> None:
        while os.read(descriptor, 4096):
            pass
        action()

    threading.Thread(target=wait, name="tether", daemon=True).start()


def run_entry_point(work: Callable[[], int], worker: str = "") -> int:
    """What `work` returns; an error of ours becomes its event and its exit code.

    `worker` is on every line of the log: those of a machine share one.
    """
    log_to_stderr(_log_format(), {"worker": worker} if worker else {})
    try:
        return work()
    except BgpipeError as error:
        log.critical("cannot work", extra={"fields": {"error": str(error)}})
        return error.exit_code


def _log_format() -> LogFormat:
    """Settings that cannot be read are told of as text, by whoever reads them next."""
    try:
        return load_settings().log.format
    except ValueError:
        return LogFormat.TEXT


def worker_settings() -> Settings:
    """The settings of a process that works for a Redis, which it does not bring along.

    Raises:
        UsageError: a value is wrong, or there is no address.

    """
    settings = read_settings()
    if settings.embedded:
        raise UsageError("no Redis to work for: set BGPIPE_REDIS_URL")
    return settings
