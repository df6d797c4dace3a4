"""Benchmark of the network alone, in its own process: BenchRequest on stdin, JSON lines on stdout."""

import itertools
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from bgpipe.config.settings import Precision
from bgpipe.pipeline.bench.protocol import BenchRequest, Machine, NetworkResult
from bgpipe.pipeline.errors import TransientError, UsageError
from bgpipe.pipeline.inference.engine import DTYPES, BiRefNetEngine, cast_network, choose_precision
from bgpipe.pipeline.networks.birefnet.checkpoint import load
from bgpipe.pipeline.processes import serve_lines

MATRIX_SIDES = {"cuda": 8192, "cpu": 1024}
"""Large enough for a matrix product to be compute-bound."""
MATRIX_SECONDS = 1.0
BATCHES = {"cuda": (1, 2, 4, 8, 16, 32), "cpu": (1, 2, 4)}
MIN_PASSES = 3
KIB = 1024


def measure(request: BenchRequest) -> Iterator[Machine | NetworkResult]:
    """Yield the machine, then the result of each combination; unsupported ones set `error`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    request = replace(request, threads=request.threads or os.cpu_count() or 1)
    torch.set_num_threads(request.threads)
    precisions = request.precisions or tuple(_supported_precisions(device))
    machine = _inspect_machine(request, device, precisions)
    yield machine
    batches = request.batches or BATCHES[device.type]
    for precision, batch in itertools.product(precisions, batches):
        try:
            yield _measure_batch(request, device, machine, precision, batch)
        except (TransientError, UsageError) as error:
            yield NetworkResult(precision, batch, error=str(error))


def _supported_precisions(device: torch.device) -> Iterator[Precision]:
    for precision in DTYPES:
        if precision is Precision.FLOAT16 and device.type == "cpu":
            continue  # slower than float32 on every CPU
        with suppress(UsageError):
            yield choose_precision(precision, device)


def _inspect_machine(
    request: BenchRequest, device: torch.device, precisions: tuple[Precision, ...]
) -> Machine:
    if device.type == "cuda":
        product, detail = torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"
    else:
        product = _read_field("/proc/cpuinfo", "model name") or platform.processor()
        detail = f"{request.threads} threads"
    software = f"torch {torch.__version__}, {detail}, Python {platform.python_version()}"
    peaks = {precision: _measure_matrix_product(device, precision) for precision in precisions}
    # Of the plain network, so that savings of the fused one show as speed; outside inference mode, whose
    # products by oneDNN are not counted.
    with FlopCounterMode(display=False) as counter:  # without data, on the meta device
        image = torch.zeros(1, 3, *request.model.size, device="meta")
        load(request.model).to("meta")(image)
    operations = float(counter.get_total_flops())
    return Machine(device.type, product or platform.machine(), software, peaks, operations)


def _read_field(path: str, name: str) -> str:
    """Return the value of the first line `name: value` of a file in /proc, or an empty string."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return ""


def _measure_matrix_product(device: torch.device, precision: Precision) -> float:
    """Return the best FLOP/s of a large matrix product."""
    side = MATRIX_SIDES[device.type]
    cast_network(torch.nn.Identity(), precision, device)  # sets the multiplication of float32
    left, right = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in "ab")

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * side**3 / min(_time_passes(multiply, MATRIX_SECONDS))


def _measure_batch(
    request: BenchRequest, device: torch.device, machine: Machine, precision: Precision, batch: int
) -> NetworkResult:
    _reset_peak_memory(device)
    engine = BiRefNetEngine(
        request.model,
        device.type,
        batch=batch,
        threads=request.threads,
        precision=precision,
        compiled=request.compiled,
        graphs=request.graphs,
    )
    size = (*request.model.size, 3)
    images = [np.random.default_rng(seed).integers(0, 256, size, np.uint8) for seed in range(batch)]
    engine.infer(images)
    if engine.batch < batch:
        return NetworkResult(precision, batch, error="does not fit into the device's memory")
    passes = 2 * engine.passes_in_flight  # overlapping, as in a worker
    work = images * passes
    seconds = median(_time_passes(lambda: engine.infer(work), request.seconds)) / passes
    images_per_second = batch / seconds
    share = images_per_second * machine.operations / machine.matrix_peak[precision]
    memory = _read_peak_memory(device)
    return NetworkResult(precision, batch, images_per_second, 1e3 * seconds, memory, share)


def _time_passes(work: Callable[[], object], seconds: float) -> Iterator[float]:
    """Yield the seconds of each pass, for about `seconds` and at least MIN_PASSES passes."""
    end = time.perf_counter() + seconds
    for number in itertools.count():
        start = time.perf_counter()
        if number >= MIN_PASSES and start > end:
            return
        work()
        yield time.perf_counter() - start


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # without permission, peaks include all earlier combinations
        Path("/proc/self/clear_refs").write_text("5")


def _read_peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage alone would count the peak of the process that started this one, which is not reset.
    peak = _read_field("/proc/self/status", "VmHWM").removesuffix("kB")
    return KIB * int(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    result = TypeAdapter[Machine | NetworkResult](Machine | NetworkResult)
    sys.exit(serve_lines(TypeAdapter(BenchRequest), result, measure))
