"""The engines on a worker's device, kept so that jobs with different recipes can take turns."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import Code, ModelUnavailable, Refused, TransientError, UsageError
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.types import Matting, Recipe, ResolvedModel

if TYPE_CHECKING:
    from bgpipe.pipeline.inference.engine import Engine

log = logging.getLogger(__name__)


ModelSpec = Recipe | Matting
"""Names the weights and the input size of an engine."""
EngineFactory = Callable[[ModelSpec], "Engine"]
EngineKey = tuple[type[ModelSpec], str, tuple[int, int]]


def engine_key(spec: ModelSpec) -> EngineKey:
    """Return what identifies an engine: kind of model, sha256 of the weights and input size."""
    return type(spec), spec.weights, spec.size


class EngineCache:
    """Keeps the engines used last whose weights fit into `capacity_bytes`. One thread uses it."""

    def __init__(self, make_engine: EngineFactory, capacity_bytes: int) -> None:
        self._make_engine = make_engine
        self._capacity_bytes = capacity_bytes
        self._engines: OrderedDict[EngineKey, Engine] = OrderedDict()
        """In the order of their last use."""

    def find(self, key: EngineKey) -> Engine | None:
        """Return the engine if it is kept, which is then the one used last."""
        if key in self._engines:
            self._engines.move_to_end(key)
        return self._engines.get(key)

    def load(self, spec: ModelSpec) -> Engine:
        """Make an engine and keep it; if the device is full, evict all others for it.

        Raises the factory's errors.
        """
        try:
            engine = self._make_engine(spec)
        except TransientError as error:
            if error.code is not Code.DEVICE or not self._engines:
                raise
            log.warning("the device is full, giving up the other models")
            self._engines.clear()
            engine = None
        # Outside the handler, whose error keeps the half-made engine alive.
        self._engines[engine_key(spec)] = made = engine or self._make_engine(spec)
        kept = self._engines
        while len(kept) > 1 and sum(each.memory for each in kept.values()) > self._capacity_bytes:
            (_, weights, _), _ = kept.popitem(last=False)
            log.info("model given up for room", extra={"fields": {"weights": weights[:12]}})
        return made


def load_engine(settings: Settings, device: str, batch: int, spec: ModelSpec) -> Engine:
    """Load the model onto `device` (cpu or cuda) for `batch` images; raises Refused."""
    model = _resolve(spec, settings)
    threads = settings.worker.cpu_threads or available_cores()
    # Where torch.compile finds what it compiled before.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.state_folder / "compiled"))
    import torch  # by the device thread, as it takes seconds in which the worker connects

    try:
        if isinstance(spec, Matting):
            from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine

            return VitMatteEngine(model, device, batch=batch, threads=threads)
        from bgpipe.pipeline.inference.engine import BiRefNetEngine

        return BiRefNetEngine(
            model,
            device,
            batch=batch,
            threads=threads,
            precision=settings.engine.precision,
            compiled=settings.engine.compile,
            graphs=settings.engine.graphs,
        )
    except torch.OutOfMemoryError as error:
        problem = f"the model does not fit into the device's memory: {spec.model}"
        raise Refused(Code.DEVICE, f"{problem}: free it of other programs") from error


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _resolve(spec: ModelSpec, settings: Settings) -> ResolvedModel:
    """Return this machine's weights, which must be those that the job was submitted with."""
    hub = Hub.from_settings(settings.model)
    try:
        model = resolve(spec.model, cache=settings.model_folder, hub=hub)
    except (ModelUnavailable, UsageError) as error:
        raise Refused(Code.INTERNAL, f"model {spec.model}: {error}") from error
    if model.sha256 != spec.weights:
        difference = f"the job wants {spec.weights}, here is {model.sha256}"
        remedy = "use the same weights on every machine"
        raise Refused(Code.INTERNAL, f"model {spec.model} differs: {difference}: {remedy}")
    return replace(model, size=spec.size)
