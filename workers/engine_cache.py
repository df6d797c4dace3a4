"""The engines that a worker keeps, so that jobs with different recipes take turns without loading.

From a job's recipe to the engines on this worker's device.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import Code, ModelUnavailable, TransientError, UsageError
from bgpipe.pipeline.inference.devices import CPU
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.types import Matte, Matting, ModelTask, Recipe, ResolvedModel

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

log = logging.getLogger(__name__)


class InferenceEngine(Protocol):
    """What owns the device: bgpipe.pipeline.inference.engine or .vitmatte.engine, or a benchmark's."""

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


def make_engine_factory(settings: Settings, device: str, batch: int) -> EngineFactory:
    """What loads a model onto `device`, cpu or cuda, for `batch` images or tiles at once."""
    threads = settings.worker.cpu_threads or cores()
    # Where torch.compile looks for what it made before.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.state_folder / "compiled"))

    def make(wanted: ModelSpec) -> InferenceEngine:
        model = _weights(wanted, settings)
        import torch  # in the device thread: it takes seconds, in which the worker can connect

        try:
            if isinstance(wanted, Matting):
                from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine

                return VitMatteEngine(model, device, batch=batch, threads=threads)
            from bgpipe.pipeline.inference.engine import BiRefNetEngine as TorchEngine
            from bgpipe.pipeline.inference.engine import EngineOptions

            how = settings.engine
            mode = EngineOptions(
                how.precision,
                compiled=how.compile,
                graphs=how.graphs,
                means=how.means and device != CPU,  # which the lanes' cores are already
            )
            engine = TorchEngine(model, device, batch=batch, threads=threads, options=mode)
            if device != CPU and not settings.worker.batch and not how.compile:
                from bgpipe.pipeline.inference.batch_size import tune

                tune(engine, model.size, settings.state_folder / "batches.json")
            return engine  # noqa: TRY300  # one way out for both kinds
        except torch.OutOfMemoryError as error:
            raise TransientError(
                Code.DEVICE, f"the device's memory does not hold the model: {wanted.model}"
            ) from error

    return make


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _weights(wanted: ModelSpec, settings: Settings) -> ResolvedModel:
    """The weights on this machine, which must be those that the job was opened with."""
    hub = Hub(timeout=settings.model.hub_timeout)
    try:
        model = resolve(wanted.model, cache=settings.model_folder, hub=hub)
    except (ModelUnavailable, UsageError) as error:
        raise TransientError(Code.INTERNAL, f"model {wanted.model}: {error}") from error
    if model.sha256 != wanted.weights:
        raise TransientError(
            Code.INTERNAL,
            f"model {wanted.model} differs: the job wants {wanted.weights}, here is {model.sha256};"
            " use the same weights on every machine",
        )
    return replace(model, size=wanted.size)
