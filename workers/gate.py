"""The gate in front of a worker's lanes: images pass side by side, a suspect passes alone.

An image may take its whole process with it. One that was in flight when a worker died is let in
only once the worker is empty, and nobody follows it until it is through: whatever dies then, it
alone is to blame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class IsolationLock:
    """Any number of threads may pass. Who waits to be alone goes before all who come later."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._suspects = 0
        self._closed = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside, with others."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._closed or self._suspects))
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be inside, with nobody else."""
        with self._changed:
            self._suspects += 1
            self._changed.wait_for(lambda: not (self._closed or self._inside))
            self._suspects -= 1
            self._closed = True
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()
