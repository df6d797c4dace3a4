"""How a worker process ends: warmly, unless it is told twice."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from celery.worker import state

from bgpipe.pipeline.errors import BgpipeError

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
