"""Locks of processes, as they are seen from outside."""

from __future__ import annotations

import fcntl
from pathlib import Path


def is_free(path: Path) -> bool:
    """Whether no process holds the lock of the file at `path`."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
