"""Reports to the user that something outside takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Notify = Callable[[str], None]
"""Shows a line to the user, now."""

DELAY = 1.0
"""Seconds before a wait is reported."""
INTERVAL = 10.0
"""Seconds between two reports of one wait."""


@contextmanager
def report_wait(notify: Notify | None, activity: str) -> Iterator[None]:
    """Pass `activity` to `notify` once the block has taken a second, then every ten with the time."""
    if notify is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_report, args=(notify, activity, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _report(notify: Notify, activity: str, ended: threading.Event) -> None:
    if ended.wait(DELAY):
        return
    start = time.monotonic() - DELAY
    notify(f"{activity} ...")
    while not ended.wait(INTERVAL):
        notify(f"{activity} ({time.monotonic() - start:.0f} s) ...")
