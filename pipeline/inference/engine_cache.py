"""The engines on a worker's device, kept so that jobs with different recipes can take turns."""

from __future__ import annotations

import os
import sysconfig
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import which
from tempfile import TemporaryFile, mkdtemp
from typing import TYPE_CHECKING

from bgpipe.config.settings import Precision, Settings
from bgpipe.pipeline.errors import (
    Code,
    DeviceLost,
    ItemError,
    ModelUnavailable,
    Refused,
    Unavailable,
    UsageError,
)
from bgpipe.pipeline.inference.devices import CPU, is_out_of_memory
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.types import Matting, Recipe, ResolvedModel

if TYPE_CHECKING:
    from bgpipe.pipeline.inference.engine import Engine

GPU_THREADS = 4  # of the host, which copy pixels and mattes beside the lanes

log = EventLogger(__name__)

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

        Whatever fails, no image is at fault.

        Raises:
            Refused, Unavailable: weights are missing or differ, or the device has no room.
            DeviceLost: another cause, which may end with this process.
        """
        try:
            engine = self._make(spec)
        except Refused as error:
            if error.code is not Code.DEVICE or not self._engines:
                raise
            log.warning("the device is full, giving up the other models")
            self._engines.clear()
            engine = None
        # Outside the handler, whose error keeps the half-made engine alive.
        self._engines[engine_key(spec)] = made = engine or self._make(spec)
        kept = self._engines
        while len(kept) > 1 and sum(each.memory for each in kept.values()) > self._capacity_bytes:
            (_, weights, _), _ = kept.popitem(last=False)
            log.info("model given up for room", weights=weights[:12])
        return made

    def _make(self, spec: ModelSpec) -> Engine:
        try:
            return self._make_engine(spec)
        except (Refused, Unavailable, DeviceLost):
            raise
        except ItemError as error:
            raise Refused(error.code, error.detail) from error
        except Exception as error:  # of CUDA, compilers, files: there is no list of them
            if is_out_of_memory(error):
                problem = f"the model does not fit into the device's memory: {spec.model}"
                raise Refused(Code.DEVICE, f"{problem}: free it of other programs") from error
            log.exception("model does not load")
            first_line = str(error).partition("\n")[0]  # the reason of a pause is one line
            failure = f"{spec.model}: {type(error).__name__}: {first_line}"
            raise DeviceLost(Code.DEVICE, f"model does not load: {failure}") from error


def check_engine(settings: Settings, device: str) -> None:
    """Raise UsageError if the device lacks the settings' precision, or `compile` a compiler."""
    if settings.engine.precision is not Precision.AUTO:
        import torch

        from bgpipe.pipeline.inference.engine import choose_precision

        choose_precision(settings.engine.precision, torch.device(device))
    if settings.engine.compile:
        _check_compiler(device)


def load_engine(settings: Settings, device: str, batch: int, spec: ModelSpec) -> Engine:
    """Load the model onto `device` (cpu or cuda) for `batch` images.

    Raises Refused if the weights are missing or differ, and whatever torch raises.
    """
    if settings.engine.compile or device != CPU:
        _keep_compiled(settings.state_folder / "compiled")
    model = _resolve(spec, settings)
    cores = available_cores()
    threads = settings.worker.cpu_threads or (cores if device == CPU else min(GPU_THREADS, cores))
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
        kernels=settings.engine.kernels,
    )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keep_compiled(folder: Path) -> None:
    """Have Inductor and Triton keep what they compile in `folder`, if it is writable."""
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        log.warning(
            "compiled code is not kept: folder is not writable",
            folder=str(folder),
            error=error.strerror,
        )
        folder = Path(mkdtemp(prefix="bgpipe-compiled-"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def _check_compiler(device: str) -> None:
    """Raise UsageError without a compiler: of C++ for a CPU, and of C for Triton on a GPU."""
    variable, programs = ("CXX", "g++ clang++") if device == CPU else ("CC", "gcc clang")
    found = any(map(which, os.environ.get(variable, programs).split()))
    if not (found and Path(sysconfig.get_path("include"), "Python.h").is_file()):
        needed = f"engine.compile needs a compiler and the headers of Python: {programs.split()[0]}"
        raise UsageError(f"{needed} and python3-dev: install them, or leave --compile out")


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
