"""The one thread that owns the device.

Lanes hand in a model input each and wait. The device thread takes up to a micro-batch of them that
want the same model, runs it, and gives every lane its matte.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from bgpipe.pipeline.errors import Code, DeviceLost, TransientError
from bgpipe.pipeline.types import Matte, Recipe

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What owns the device: bgpipe.pipeline.engine, or a benchmark's."""

    def infer(self, images: Sequence[Pixels]) -> list[Matte]: ...


EngineMaker = Callable[[Recipe], Engine]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    recipe: Recipe
    pixels: Pixels
    matte: Future[Matte] = field(default_factory=Future)

    @property
    def model(self) -> tuple[str, tuple[int, int]]:
        """What requests must share to be served by one engine in one batch."""
        return self.recipe.weights, self.recipe.size


class Batcher:
    """Serves lanes from one device thread, which lives from `__enter__` to `__exit__`.

    `batch` images at most go through the engine at once; a batch that is not full waits `wait`
    seconds for company. `on_lost` is called, in the device thread, when that thread ends by itself:
    the device is lost to this process.
    """

    def __init__(
        self, make_engine: EngineMaker, *, batch: int, wait: float, on_lost: Callable[[], None]
    ) -> None:
        self._make_engine = make_engine
        self._batch = batch
        self._wait = wait
        self._on_lost = on_lost
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._closed = False
        self._ended = False
        self._engine: Engine | None = None
        self._model: tuple[str, tuple[int, int]] | None = None
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def model(self) -> str:
        """The weights in the engine slot, or nothing."""
        return self._model[0] if self._model else ""

    def infer(self, recipe: Recipe, pixels: Pixels) -> Matte:
        """Wait for the matte of `pixels`, an image of the size that the recipe's model takes.

        Raises:
            TransientError: the device thread has ended.

        Whatever the engine raises for this image is raised here.

        """
        request = Request(recipe, pixels)
        with self._changed:
            if self._ended:
                raise _ended()
            self._waiting.append(request)
            self._changed.notify()
        return request.matte.result()

    def _run(self) -> None:
        batch: list[Request] = []
        try:
            while batch := self._next_batch():
                self._serve(batch)
        finally:
            self._end(batch)

    def _next_batch(self) -> list[Request]:
        """Wait for requests, and a little for company; empty once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return []
            self._changed.wait_for(self._is_full, timeout=self._wait)
            batch = self._first_of_a_kind()
            self._waiting = [request for request in self._waiting if request not in batch]
            return batch

    def _is_full(self) -> bool:
        return self._closed or len(self._first_of_a_kind()) == self._batch

    def _first_of_a_kind(self) -> list[Request]:
        model = self._waiting[0].model
        return [request for request in self._waiting if request.model == model][: self._batch]

    def _serve(self, batch: list[Request]) -> None:
        """Answer every request, with a matte or with what went wrong."""
        try:
            engine = self._engine_for(batch[0])
            mattes = engine.infer([request.pixels for request in batch])
        except DeviceLost:
            raise
        except Exception as error:  # raised again in the lanes
            if len(batch) == 1 or self._engine is None:
                _fail(batch, error)
            else:
                self._serve_one_by_one(batch, error)
        else:
            for request, matte in zip(batch, mattes, strict=True):
                request.matte.set_result(matte)

    def _serve_one_by_one(self, batch: list[Request], error: Exception) -> None:
        """Run a batch that failed image by image, so that a poisonous one fails alone."""
        fields = {"images": len(batch), "error": repr(error)}
        log.warning("batch failed, running its images one by one", extra={"fields": fields})
        for request in batch:
            self._serve([request])

    def _engine_for(self, request: Request) -> Engine:
        """The engine in the slot, replaced when the request wants another model."""
        if self._engine is None or self._model != request.model:
            self._engine = None  # frees its memory before the next one takes as much
            fields = {"model": request.recipe.model, "weights": request.recipe.weights[:12]}
            log.info("loading model", extra={"fields": fields})
            self._engine = self._make_engine(request.recipe)
            self._model = request.model
        return self._engine

    def _end(self, unserved: list[Request]) -> None:
        """Refuse what waits and whatever comes later, so that no lane hangs."""
        with self._changed:
            self._ended = True
            left, self._waiting = self._waiting, []
        _fail([*unserved, *left], _ended())
        if not self._closed:
            self._on_lost()


def _fail(batch: Sequence[Request], error: Exception) -> None:
    for request in batch:
        if not request.matte.done():
            request.matte.set_exception(error)


def _ended() -> TransientError:
    return TransientError(Code.DEVICE, "the device thread has ended; its worker is leaving")
