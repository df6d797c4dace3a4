"""The one thread that uses the device.

Lanes submit a model input each, or the tiles of an edge, and wait. The device thread takes up to a
micro-batch of requests for the same model and size, runs it, and answers every lane. On a GPU it launches
the next full micro-batch before it waits for the last. A second thread watches the first: if a step
exceeds its limit, the device is lost to this process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Self

from bgpipe.config.settings import LimitSettings
from bgpipe.pipeline.errors import Code, DeviceLost, Refused
from bgpipe.pipeline.inference.engine_cache import EngineCache, ModelSpec, engine_key
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.processes import start_supervised
from bgpipe.pipeline.types import Matte, Recipe
from bgpipe.workers.heartbeat import WorkerCounters
from bgpipe.workers.lifecycle import WorkerShuttingDown
from bgpipe.workers.watchdog import StageTimer, describe_thread

if TYPE_CHECKING:
    from bgpipe.pipeline.inference.engine import Engine, LaunchedPass
    from bgpipe.pipeline.types import Pixels

CHECK_INTERVAL = 0.5
"""Seconds between two checks of the device thread."""
CLOSE_SECONDS = 2.0
"""Time for the running step to end when the batcher closes."""
NOT_BEGUN = "the device is gone before it began with the image; the worker ends"

log = EventLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class InferenceRequest:
    spec: ModelSpec
    pixels: Pixels
    matte: Future[Matte] = field(default_factory=Future)

    def may_share_batch(self, other: InferenceRequest) -> bool:
        same_engine = engine_key(self.spec) == engine_key(other.spec)
        return same_engine and self.pixels.shape == other.pixels.shape


@dataclass(frozen=True, slots=True, eq=False)
class LaunchedBatch:
    requests: Sequence[InferenceRequest]
    engine: Engine
    read: LaunchedPass


@dataclass(eq=False)
class Batcher:
    """Serves lanes from a device thread that lives from `__enter__` to `__exit__`."""

    engines: EngineCache
    counters: WorkerCounters
    limits: LimitSettings
    _: KW_ONLY
    batch: int
    """Maximum number of images in a micro-batch."""
    wait: float
    """Seconds for which one that is not full waits."""
    on_lost: Callable[[], None]
    """Called when the device is lost: its thread ended by itself or is stuck."""

    def __post_init__(self) -> None:
        self._timer = StageTimer(self.limits.model_dump())
        self._changed = threading.Condition()
        self._waiting: list[InferenceRequest] = []
        self._serving: list[InferenceRequest] = []
        self._suspects: list[InferenceRequest] = []
        """Those on the device: one of them may be at fault if it is lost."""
        self._launched: deque[LaunchedBatch] = deque()
        self._closed = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        start_supervised("device-watch", self._watch, self._ended)
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        self._end(DeviceLost(Code.DEVICE, "the worker ended during a step"))

    def infer(self, spec: ModelSpec, images: Sequence[Pixels]) -> list[Matte]:
        """Return the mattes of model inputs, or of an image's tiles, as the engine of `spec` does.

        Raises DeviceLost if the device was lost while it ran one of these, WorkerShuttingDown if it was
        lost before, and the engine's errors for these.
        """
        requests = [InferenceRequest(spec, pixels) for pixels in images]
        with self._changed:
            if self._ended.is_set():
                raise WorkerShuttingDown(NOT_BEGUN)
            self._waiting.extend(requests)
            self._changed.notify_all()
        return [request.matte.result() for request in requests]

    def _run(self) -> None:
        lost = DeviceLost(Code.DEVICE, "the device thread has ended")
        try:
            while self._next_batch():
                self._launch(self._serving)
            while self._launched:
                self._read()
        except DeviceLost as error:
            lost = error
        finally:
            self._end(lost)

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(CHECK_INTERVAL):
            step = self._timer.current
            if step and step.remaining < 0:
                lost = (
                    f"the device's {step.name} did not end within {step.limit:g} s: it is at "
                    f"{describe_thread(self._thread)}: check the device, or raise limits.{step.name}"
                )
                self._end(DeviceLost(Code.TIMEOUT, lost))

    def _next_batch(self) -> bool:
        """Wait for requests and, shortly, for a full batch; return False once closed.

        Launched passes are read first, unless a full batch can follow them at once.
        """
        while self._launched and not self._may_follow(self._launched[-1]):
            self._read()
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed or self._ended.is_set():
                return False
            self._changed.wait_for(
                lambda: self._closed or len(self._first_batch()) == self.batch, self.wait
            )
            self._serving = self._first_batch()
            self._waiting = [request for request in self._waiting if request not in self._serving]
            return True

    def _first_batch(self) -> list[InferenceRequest]:
        return [*filter(self._waiting[0].may_share_batch, self._waiting)][: self.batch]

    def _may_follow(self, last: LaunchedBatch) -> bool:
        """Whether a full batch waits that `last`'s engine can take before `last` is read."""
        with self._changed:
            if len(self._launched) >= last.engine.passes_in_flight or not self._waiting:
                return False
            batch = self._first_batch()
            return len(batch) == self.batch and batch[0].may_share_batch(last.requests[0])

    def _launch(self, batch: Sequence[InferenceRequest]) -> None:
        """Launch a pass over `batch`, whose requests are answered when it is read."""
        with self._recovering(batch):
            engine = self._engine_for(batch[0].spec)
            self._suspects = [*self._suspects, *batch]
            with self._timer("step"):
                read = engine.launch([request.pixels for request in batch])
            self._launched.append(LaunchedBatch(batch, engine, read))

    def _read(self) -> None:
        """Wait for the first launched pass and answer its requests."""
        first = self._launched.popleft()
        with self._recovering(first.requests):
            with self._timer("step"):
                mattes = first.read()
            self._clear(first.requests)
            spec = first.requests[0].spec
            with self.counters.update() as stats:
                stats.steps += 1
                stats.device_images += len(mattes)
                stats.device_seconds = self._timer.stages["step"]
                if isinstance(spec, Recipe):
                    stats.model = spec.weights
            for request, matte in zip(first.requests, mattes, strict=True):
                with suppress(InvalidStateError):  # the step ended after it was given up
                    request.matte.set_result(matte)

    @contextmanager
    def _recovering(self, batch: Sequence[InferenceRequest]) -> Iterator[None]:
        """If the block fails, run the images of `batch` one by one: a poisonous one fails alone.

        After DeviceLost they stay suspects.
        """
        try:
            yield
        except DeviceLost:
            raise
        except Exception as error:  # raised again in the lanes
            self._clear(batch)
            if len(batch) == 1 or self.engines.find(engine_key(batch[0].spec)) is None:
                _fail(batch, error)
                return
            text = repr(error)
            log.warning(
                "batch failed, running its images one by one", images=len(batch), error=text
            )
            # If the device is lost now, `_end` answers these as well.
            self._serving = [*self._serving, *batch]
            for request in batch:
                while self._launched:
                    self._read()
                self._launch([request])

    def _engine_for(self, spec: ModelSpec) -> Engine:
        if engine := self.engines.find(engine_key(spec)):
            return engine
        log.info("loading model", model=spec.model, weights=spec.weights[:12])
        with self._timer("load"):
            try:
                return self.engines.load(spec)
            except DeviceLost as error:  # this worker ends; the jobs wait if others fail as well
                _fail(self._serving, Refused(error.code, error.detail))
                raise

    def _clear(self, requests: Sequence[InferenceRequest]) -> None:
        self._suspects = [each for each in self._suspects if each not in requests]

    def _end(self, lost: DeviceLost) -> None:
        """Fail all pending and future requests, so that no lane blocks."""
        with self._changed:
            if self._ended.is_set():
                return
            self._ended.set()
            waiting, self._waiting = self._waiting, []
            suspects = self._suspects
        if not self._closed:
            text, count = str(lost), len(suspects)
            log.critical(
                "device lost, the worker ends", error=text, in_step=count, waiting=len(waiting)
            )
            self.on_lost()
        _fail(suspects, lost)
        _fail([*self._serving, *waiting], WorkerShuttingDown(NOT_BEGUN))


def _fail(requests: Sequence[InferenceRequest], error: Exception) -> None:
    """Answer those of `requests` that are pending."""
    for request in requests:
        with suppress(InvalidStateError):
            request.matte.set_exception(error)
