"""Ties a process's life to its parent's, on every system and however the parent dies.

The parent holds the writing end of a pipe and never writes. The kernel closes it with the parent,
and whoever reads the other end learns of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

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
