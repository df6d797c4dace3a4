"""Time limits for the stages of an image.

A Python thread cannot be killed. So each image is made in a thread of its own, for which its lane
waits; a thread that overruns a limit is abandoned and the lane is free again. An abandoned thread is
harmless: it does not write to the job store, what it may still write is what any attempt would, and
it ends where its next stage would begin.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Any, TypeVar

from bgpipe.pipeline.errors import Code, TransientError
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.processes import start_daemon
from bgpipe.workers.lifecycle import WorkerShuttingDown

CHECK_INTERVAL = 1.0
"""Seconds between two checks of a thread: its next stage may have a shorter limit."""
FRAMES = 4
"""Innermost calls of a stuck thread that are logged."""

Result = TypeVar("Result")

log = EventLogger(__name__)


class StageAborted(Exception):
    """Raised in an abandoned thread instead of its next stage."""


@dataclass(frozen=True, slots=True)
class TimedStage:
    """A stage that may take `limit` seconds, until `deadline` (of time.perf_counter)."""

    name: str
    limit: float
    deadline: float

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; negative beyond it."""
        return self.deadline - time.perf_counter()


@dataclass
class StageTimer:
    """Times an image and its stages. The working thread writes, the lane that waits reads."""

    limits: Mapping[str, float]
    """Seconds for each stage."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage that has ended; each output has its own stages `refine` and `encode`."""
    current: TimedStage | None = None
    aborted: bool = False
    """No further stage begins."""
    start: float = field(default_factory=time.perf_counter)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block as `stage`, or raise StageAborted."""
        if self.aborted:
            raise StageAborted
        start, limit = time.perf_counter(), self.limits[stage]
        self.current = TimedStage(stage, limit, start + limit)
        try:
            yield
        finally:
            self.current = None
            self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Seconds since the timer was made."""
        return time.perf_counter() - self.start


@dataclass
class Watchdog:
    """Threads may share it. `on_too_many_stuck` is called once `max_stuck` threads are stuck."""

    max_stuck: int
    on_too_many_stuck: Callable[[], None]
    _lock: Lock = field(default_factory=Lock)
    _stuck: list[Thread] = field(default_factory=list)
    _given_up: Future[None] = field(default_factory=Future)

    def run(self, name: str, timer: StageTimer, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, run in a thread `name` with its stages timed by `timer`.

        Raises TransientError if a stage exceeded its limit, WorkerShuttingDown if `give_up` was called.
        """
        thread, result = start_daemon(name, work)
        ends: list[Future[Any]] = [result, self._given_up]
        while True:
            stage = timer.current
            timeout = min(max(stage.remaining, 0), CHECK_INTERVAL) if stage else CHECK_INTERVAL
            wait(ends, timeout, FIRST_COMPLETED)
            if result.done():
                return result.result()
            if self._given_up.done():
                timer.aborted = True
                raise WorkerShuttingDown("the worker ended before the image was done")
            if stage and stage is timer.current and stage.remaining <= 0:
                timer.aborted = True
                raise self._report_stuck(stage, thread)

    def give_up(self) -> None:
        """Stop waiting for any image, as the time for draining is over."""
        if not self._given_up.done():
            self._given_up.set_result(None)

    def _report_stuck(self, stage: TimedStage, thread: Thread) -> TransientError:
        with self._lock:
            self._stuck = [*filter(Thread.is_alive, self._stuck), thread]
            stuck = len(self._stuck)
        name, at = stage.name, describe_thread(thread)
        log.error(
            "image is stuck", image=thread.name, stage=name, limit=stage.limit, stuck=stuck, at=at
        )
        if stuck >= self.max_stuck:
            log.critical("too many images are stuck: the worker ends and is started again")
            self.on_too_many_stuck()
        overrun = f"{name} did not end within {stage.limit:g} s"
        return TransientError(Code.TIMEOUT, f"{overrun}: look at the image, or raise limits.{name}")


def describe_thread(thread: Thread) -> str:
    """Return the innermost calls of `thread`, the innermost last."""
    frame = sys._current_frames().get(thread.ident or 0)
    calls = traceback.extract_stack(frame)[-FRAMES:] if frame else []
    return " > ".join(f"{call.name} ({call.filename}:{call.lineno})" for call in calls)
