"""Which images may be in memory at once: lanes share a budget, a large image takes more of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_OURS = Path("/proc/self/statm")


class MemoryBudget:
    """A budget in bytes. Any number of threads may claim; nobody overtakes a claim that waits."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._free = budget
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def claim(self, amount: int) -> Iterator[None]:
        """Wait until `amount` bytes are free, and hold them; all of the budget if it is less."""
        share = min(amount, self._budget)
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._freed:
                self._free += share
                self._freed.notify()


def half_of_the_machine() -> int:
    """Half of the bytes that this process may use, by the machine or by its container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, _container_limit() or machine) // 2


def resident() -> int:
    """Bytes that this process holds in memory; 0 where the system does not say."""
    try:
        return int(_OURS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux
        return 0


def _container_limit() -> int | None:
    try:
        return int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # no container, or none with a limit, which reads "max"
        return None
