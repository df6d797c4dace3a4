"""How long an image takes, where, and how long it may."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


class StageAborted(Exception):
    """Raised in a thread whose image nobody waits for any more."""


@dataclass(frozen=True, slots=True)
class TimedStage:
    """What is going on since `start` (of time.perf_counter), for `limit` seconds at most."""

    name: str
    start: float
    limit: float

    @property
    def left(self) -> float:
        """Seconds until it is overdue; negative from then on."""
        return self.start + self.limit - time.perf_counter()


class StageTimer:
    """Seconds since it was made, and those of each stage.

    The thread that works writes it, the lane that waits reads it.
    """

    def __init__(self, limits: Mapping[str, float]) -> None:
        """`limits`: seconds for each stage; there are no others."""
        self._limits = limits
        self._start = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._abandoned = False
        self.stage: TimedStage | None = None
        """The one that is going on."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Be in `stage`.

        Raises:
            Abandoned: instead of beginning it, once the watch was stopped.

        """
        if self._abandoned:
            raise StageAborted
        start = time.perf_counter()
        self.stage = TimedStage(stage, start, self._limits[stage])
        try:
            yield
        finally:
            self.stage = None
            self._stages[stage] = time.perf_counter() - start

    def stop(self) -> None:
        """Let no further stage begin."""
        self._abandoned = True

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage that has ended."""
        return self._stages.copy()

    def fields(self) -> dict[str, float]:
        return {"seconds": self.seconds} | self.stages
