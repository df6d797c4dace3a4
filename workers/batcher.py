"""The one thread that owns the device.

Lanes hand in a model input each, or the tiles of an edge, and wait. The device thread takes up to a
micro-batch of them that want the same model at the same size, runs it, and gives every lane its
mattes. A second thread watches the first: a step that does not end means that the device is lost to
this process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from bgpipe.config.settings import LimitSettings
from bgpipe.pipeline.errors import Code, DeviceLost
from bgpipe.pipeline.types import Matte, Matting, ModelTask, Recipe
from bgpipe.workers.engine_cache import EngineCache, InferenceEngine, Model, ModelSpec, model_of
from bgpipe.workers.lifecycle import WorkerShuttingDown
from bgpipe.workers.watchdog import describe_thread

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

CHECK_INTERVAL = 0.5
"""Seconds between two looks at the device thread."""
CLOSING = 2.0
"""Seconds for which a step that nobody waits for any more may go on."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class InferenceRequest:
    spec: ModelSpec
    pixels: Pixels
    matte: Future[Matte] = field(default_factory=Future)

    @property
    def model(self) -> Model:
        return model_of(self.spec)

    @property
    def kind(self) -> tuple[Model, tuple[int, ...]]:
        """What requests must share to be served in one batch."""
        return self.model, self.pixels.shape


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """What the device thread is at until `deadline` (of time.monotonic) at most.

    `suspects` are the requests that may be to blame if it does not come to its end.
    """

    name: str
    limit: float
    deadline: float
    suspects: Sequence[InferenceRequest]


class Batcher:
    """Serves lanes from one device thread, which lives from `__enter__` to `__exit__`.

    `batch` images at most go through the engine at once; a batch that is not full waits `wait`
    seconds for company. `on_lost` is called when the device thread ends by itself or gets stuck:
    the device is lost to this process.
    """

    def __init__(
        self,
        shelf: EngineCache,
        limits: LimitSettings,
        *,
        batch: int,
        wait: float,
        on_lost: Callable[[], None],
    ) -> None:
        self._shelf = shelf
        self._limits = limits
        self._batch = batch
        self._wait = wait
        self._on_lost = on_lost
        self._changed = threading.Condition()
        self._waiting: list[InferenceRequest] = []
        self._serving: list[InferenceRequest] = []
        self._step: DeviceStep | None = None
        self._closed = False
        self._ended = False
        self.steps = 0
        """Forward passes that came to their end."""
        self.images = 0
        """Images in those passes."""
        self.busy = 0.0
        """Seconds within forward passes, also within those that failed."""
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="device-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSING)
        self._end(DeviceLost(Code.DEVICE, "the worker leaves in the middle of a step"))

    @property
    def model(self) -> str:
        """The weights that found a subject last, or nothing."""
        subjects = (weights for task, weights, _ in self._shelf.models if task is ModelTask.SUBJECT)
        return next(subjects, "")

    def infer(self, recipe: Recipe, pixels: Pixels) -> Matte:
        """Wait for the matte of `pixels`, an image of the size that the recipe's model takes.

        Raises:
            DeviceLost: the device was lost while it worked on this image.
            Leaving: it was lost before it began with this image.

        Whatever the engine raises for this image is raised here.

        """
        return self._answers([InferenceRequest(recipe, pixels)])[0]

    def infer_edges(self, matting: Matting, tiles: Sequence[Pixels]) -> list[Matte]:
        """Wait for the alphas of an image's tiles, as EdgeEngine takes them. Raises as `infer`."""
        return self._answers([InferenceRequest(matting, tile) for tile in tiles])

    def _answers(self, requests: Sequence[InferenceRequest]) -> list[Matte]:
        with self._changed:
            if self._ended:
                raise _not_begun()
            self._waiting.extend(requests)
            self._changed.notify_all()
        return [request.matte.result() for request in requests]

    def _run(self) -> None:
        lost = DeviceLost(Code.DEVICE, "the device thread has ended")
        try:
            while self._next_batch():
                self._serve(self._serving)
        except DeviceLost as error:
            lost = error
        finally:
            self._end(lost)

    def _watch(self) -> None:
        while self._thread.is_alive() and not self._ended:
            self._thread.join(CHECK_INTERVAL)
            step = self._step
            if step and time.monotonic() > step.deadline:
                self._end(_overdue(step, describe_thread(self._thread)))

    def _next_batch(self) -> bool:
        """Wait for requests, and a little for company; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed or self._ended:
                return False
            self._changed.wait_for(self._is_full, timeout=self._wait)
            self._serving = self._first_of_a_kind()
            self._waiting = [one for one in self._waiting if one not in self._serving]
            return True

    def _is_full(self) -> bool:
        return self._closed or len(self._first_of_a_kind()) == self._batch

    def _first_of_a_kind(self) -> list[InferenceRequest]:
        kind = self._waiting[0].kind
        return [request for request in self._waiting if request.kind == kind][: self._batch]

    def _serve(self, batch: list[InferenceRequest]) -> None:
        """Answer every request, with a matte or with what went wrong."""
        try:
            engine = self._engine_for(batch[0])
            with self._stepping("step", self._limits.step, batch), self._busy():
                mattes = engine.infer([request.pixels for request in batch])
        except DeviceLost:
            raise
        except Exception as error:  # raised again in the lanes
            if len(batch) == 1 or self._shelf.find(batch[0].model) is None:
                _fail(batch, error)
            else:
                self._serve_one_by_one(batch, error)
        else:
            self.steps += 1
            self.images += len(batch)
            for request, matte in zip(batch, mattes, strict=True):
                with suppress(InvalidStateError):  # the device came back after it was given up
                    request.matte.set_result(matte)

    def _serve_one_by_one(self, batch: list[InferenceRequest], error: Exception) -> None:
        """Run a batch that failed image by image, so that a poisonous one fails alone."""
        fields = {"images": len(batch), "error": repr(error)}
        log.warning("batch failed, running its images one by one", extra={"fields": fields})
        for request in batch:
            self._serve([request])

    def _engine_for(self, request: InferenceRequest) -> InferenceEngine:
        """The engine of the request's model, loaded if it is not kept."""
        engine = self._shelf.find(request.model)
        if engine is None:
            fields = {"model": request.spec.model, "weights": request.spec.weights[:12]}
            log.info("loading model", extra={"fields": fields})
            with self._stepping("load", self._limits.load, ()):
                engine = self._shelf.load(request.spec)
        return engine

    @contextmanager
    def _stepping(
        self, name: str, limit: float, suspects: Sequence[InferenceRequest]
    ) -> Iterator[None]:
        """Be watched. After DeviceLost the step stays, for those who ask who is to blame."""
        self._step = DeviceStep(name, limit, time.monotonic() + limit, suspects)
        try:
            yield
        except DeviceLost:
            raise
        except Exception:
            self._step = None
            raise
        self._step = None

    @contextmanager
    def _busy(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.busy += time.perf_counter() - start

    def _end(self, lost: DeviceLost) -> None:
        """Answer everybody, also who comes later, so that no lane hangs."""
        with self._changed:
            if self._ended:
                return
            self._ended = True
            left, self._waiting = self._waiting, []
            suspects = self._step.suspects if self._step else ()
        if not self._closed:
            fields = {"error": str(lost), "in_step": len(suspects), "waiting": len(left)}
            log.critical("device lost, the worker leaves", extra={"fields": fields})
            self._on_lost()
        _fail(suspects, lost)
        _fail([*self._serving, *left], _not_begun())


def _fail(requests: Sequence[InferenceRequest], error: Exception) -> None:
    """Answer those of `requests` that have no answer yet."""
    for request in requests:
        with suppress(InvalidStateError):
            request.matte.set_exception(error)


def _not_begun() -> WorkerShuttingDown:
    return WorkerShuttingDown(
        "the device is gone before it began with the image; the worker leaves"
    )


def _overdue(step: DeviceStep, place: str) -> DeviceLost:
    return DeviceLost(
        Code.TIMEOUT,
        f"the device's {step.name} did not end within {step.limit:g} s: it is at {place}; check the "
        f"device, or raise limits.{step.name}",
    )
