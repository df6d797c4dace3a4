"""A budget that threads share in order of arrival, and the memory of machine and process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock


class Budget:
    """A budget of `capacity` units, such as bytes. Claims are served in order of arrival."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._turn = Lock()
        self._freed = Condition()

    @contextmanager
    def claim(self, amount: int) -> Iterator[None]:
        """Wait for `amount` free units, at most the capacity, and hold them."""
        share = min(amount, self.capacity)
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._freed:
                self._free += share
                self._freed.notify()


def default_memory() -> int:
    """Return half of the memory of the machine or its container, in bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text())) // 2
    except (OSError, ValueError):  # no container, or one without a limit, which reads "max"
        return machine // 2


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0
