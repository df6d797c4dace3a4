"""From a job's recipe to the engines on this worker's device."""

from __future__ import annotations

import os
from dataclasses import replace

from bgpipe.config.settings import Settings
from bgpipe.pipeline.errors import Code, ModelUnavailable, TransientError, UsageError
from bgpipe.pipeline.hub import Hub
from bgpipe.pipeline.registry import resolve
from bgpipe.pipeline.types import Matting, ResolvedModel
from bgpipe.workers.devices import CPU
from bgpipe.workers.shelf import EngineFactory, InferenceEngine, ModelSpec


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
                from bgpipe.pipeline.vitmatte.engine import VitMatteEngine

                return VitMatteEngine(model, device, batch=batch, threads=threads)
            from bgpipe.pipeline.engine import BiRefNetEngine as TorchEngine
            from bgpipe.pipeline.engine import EngineOptions

            how = settings.engine
            mode = EngineOptions(
                how.precision,
                compiled=how.compile,
                graphs=how.graphs,
                means=how.means and device != CPU,  # which the lanes' cores are already
            )
            engine = TorchEngine(model, device, batch=batch, threads=threads, mode=mode)
            if device != CPU and not settings.worker.batch and not how.compile:
                from bgpipe.pipeline.tuning import tune

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
