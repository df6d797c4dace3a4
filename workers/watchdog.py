"""How long an image takes, where, and how long it may.

The watchdog of the lanes: no stage of an image lasts longer than its limit.

A thread of Python cannot be ended from outside. So each image is worked on in a thread of its own,
for which its lane waits; one that overruns is left behind, and the lane is free again. What is left
behind cannot do harm: it never talks to the ledger, what it may still write is what any attempt
would write, and it ends where its next stage would begin.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any, TypeVar

from bgpipe.pipeline.errors import Code, TransientError
from bgpipe.workers.lifecycle import WorkerShuttingDown


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


CHECK_INTERVAL = 1.0
"""Seconds between two looks at a thread: its next stage may have a shorter limit than this one."""
FRAMES = 4
"""Innermost calls of a stuck thread that are told."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Watchdog:
    """Any number of lanes may use it. `on_crowded` is called once `tolerated` threads are stuck."""

    def __init__(self, tolerated: int, on_crowded: Callable[[], None]) -> None:
        self._tolerated = tolerated
        self._on_crowded = on_crowded
        self._lock = Lock()
        self._stuck: list[Thread] = []
        self._given_up: Future[None] = Future()

    def run(self, name: str, watch: StageTimer, work: Callable[[], Result]) -> Result:
        """What `work` returns, whose stages `watch` times; its thread gets `name`.

        Raises:
            TransientError: a stage took too long.
            Leaving: the worker leaves and does not wait.

        """
        answer: Future[Result] = Future()
        thread = Thread(target=_fulfil, args=(answer, work), name=name, daemon=True)
        thread.start()
        while True:
            stage = watch.stage
            patience = min(max(stage.left, 0), CHECK_INTERVAL) if stage else CHECK_INTERVAL
            ends: list[Future[Any]] = [answer, self._given_up]
            wait(ends, patience, FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if self._given_up.done():
                watch.stop()
                raise WorkerShuttingDown("the worker leaves before the image is done")
            if stage and stage is watch.stage and stage.left <= 0:
                watch.stop()
                raise self._stuck_in(stage, thread)

    def give_up(self) -> None:
        """Wait for no image any more: the time for draining is over."""
        if not self._given_up.done():
            self._given_up.set_result(None)

    def _stuck_in(self, stage: TimedStage, thread: Thread) -> TransientError:
        with self._lock:
            self._stuck = [*filter(Thread.is_alive, self._stuck), thread]
            stuck = len(self._stuck)
        fields = {"image": thread.name, "stage": stage.name, "limit": stage.limit, "stuck": stuck}
        log.error("image is stuck", extra={"fields": fields | {"at": describe_thread(thread)}})
        if stuck >= self._tolerated:
            log.critical("too many images are stuck: the worker leaves and will be started again")
            self._on_crowded()
        return TransientError(
            Code.TIMEOUT,
            f"{stage.name} did not end within {stage.limit:g} s: look at the image, or raise "
            f"limits.{stage.name}",
        )


def describe_thread(thread: Thread) -> str:
    """Where `thread` is now, the innermost call last."""
    frame = sys._current_frames().get(thread.ident or 0)
    calls = traceback.extract_stack(frame)[-FRAMES:] if frame else []
    return " > ".join(f"{call.name} ({call.filename}:{call.lineno})" for call in calls)


def _fulfil(answer: Future[Result], work: Callable[[], Result]) -> None:
    try:
        answer.set_result(work())
    except BaseException as error:  # raised again in the lane
        answer.set_exception(error)
