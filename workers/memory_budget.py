"""The memory budget that the lanes of a worker share: a large image takes more of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_STATM = Path("/proc/self/statm")


class MemoryBudget:
    """A budget of `capacity` bytes. Threads may share it; claims are served in order of arrival."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free = capacity
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def claim(self, amount: int) -> Iterator[None]:
        """Wait for `amount` free bytes, at most the capacity, and hold them."""
        share = min(amount, self._capacity)
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._freed:
                self._free += share
                self._freed.notify()


def default_capacity() -> int:
    """Return half of the memory of the machine or its container, in bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, _container_limit() or machine) // 2


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if the system does not report it."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0


def _container_limit() -> int | None:
    try:
        return int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # no container, or one without a limit, which reads "max"
        return None
