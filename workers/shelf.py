"""The engines that a worker keeps, so that jobs with different recipes take turns without loading."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from bgpipe.pipeline.errors import Code, TransientError
from bgpipe.pipeline.types import Matte, Matting, ModelTask, Recipe

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

log = logging.getLogger(__name__)


class InferenceEngine(Protocol):
    """What owns the device: bgpipe.pipeline.engine or .vitmatte.engine, or a benchmark's."""

    @property
    def memory(self) -> int:
        """Bytes of the device that its weights hold."""
        ...

    def infer(self, images: Sequence[Pixels]) -> list[Matte]: ...


ModelSpec = Recipe | Matting
"""What an engine is made for; both name weights and the size of an input."""
EngineFactory = Callable[[ModelSpec], InferenceEngine]
Model = tuple[ModelTask, str, tuple[int, int]]
"""What tells one engine from another: its task, its weights, the size of its input."""


def model_of(wanted: ModelSpec) -> Model:
    task = ModelTask.EDGES if isinstance(wanted, Matting) else ModelTask.SUBJECT
    return task, wanted.weights, wanted.size


class EngineCache:
    """Engines by model. Those used last stay as long as all weights fit into `room` bytes.

    One thread uses it.
    """

    def __init__(self, make: EngineFactory, room: int) -> None:
        self._make = make
        self._room = room
        self._engines: dict[Model, InferenceEngine] = {}
        """The one used last is the last."""

    @property
    def models(self) -> list[Model]:
        """What is kept, the one used last first. Any thread may ask."""
        return list(self._engines)[::-1]

    def find(self, model: Model) -> InferenceEngine | None:
        """The engine of `model` if it is kept; from now on it is the one used last."""
        engine = self._engines.pop(model, None)
        if engine is not None:
            self._engines[model] = engine
        return engine

    def load(self, wanted: ModelSpec) -> InferenceEngine:
        """Make an engine and keep it. If the device is too full for that, it gets the device alone.

        Raises what the maker raises.
        """
        try:
            engine = self._make(wanted)
        except TransientError as error:
            if error.code is not Code.DEVICE or not self._engines:
                raise
            log.warning("the device is full, giving up the other models")
            self._engines.clear()
            engine = None
        # Outside the handler, whose error keeps alive what was half made.
        self._engines[model_of(wanted)] = kept = engine or self._make(wanted)
        self._evict_oldest()
        return kept

    def _evict_oldest(self) -> None:
        while len(self._engines) > 1 and self._memory > self._room:
            _, weights, _ = oldest = next(iter(self._engines))
            del self._engines[oldest]
            log.info("model given up for room", extra={"fields": {"weights": weights[:12]}})

    @property
    def _memory(self) -> int:
        return sum(engine.memory for engine in self._engines.values())
