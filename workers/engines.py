"""From a job's recipe to an engine on this worker's device."""

from __future__ import annotations

import os
from dataclasses import replace

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import Code, ModelUnavailable, TransientError, UsageError
from bgpipe.pipeline.hub import Hub
from bgpipe.pipeline.registry import resolve
from bgpipe.pipeline.types import Recipe, ResolvedModel
from bgpipe.workers.batcher import Engine, EngineMaker


def engine_maker(settings: Settings, device: str, batch: int) -> EngineMaker:
    """What loads the model of a recipe onto `device`, cpu or cuda, for `batch` images at once."""
    threads = settings.worker.cpu_threads or cores()

    def make(recipe: Recipe) -> Engine:
        # Imported in the device thread: torch takes seconds, in which the worker can connect.
        from bgpipe.pipeline.engine import Engine as TorchEngine

        return TorchEngine(_weights(recipe, settings), device, batch=batch, threads=threads)

    return make


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _weights(recipe: Recipe, settings: Settings) -> ResolvedModel:
    """The recipe's weights on this machine, which must be those that the job was opened with."""
    hub = Hub(timeout=settings.model.hub_timeout)
    try:
        model = resolve(recipe.model, cache=settings.model_folder, hub=hub)
    except (ModelUnavailable, UsageError) as error:
        raise TransientError(Code.INTERNAL, f"model {recipe.model}: {error}") from error
    if model.sha256 != recipe.weights:
        raise TransientError(
            Code.INTERNAL,
            f"model {recipe.model} differs: the job wants {recipe.weights}, here is {model.sha256};"
            " use the same weights on every machine",
        )
    return replace(model, size=recipe.size)
