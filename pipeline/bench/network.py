"""The network alone, as a process of its own: an order on stdin, what was found a line on stdout."""

from __future__ import annotations

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

from bgpipe.config.choices import Precision
from bgpipe.pipeline.bench.protocol import BenchRequest, Machine, NetworkResult
from bgpipe.pipeline.errors import BgpipeError, TransientError, UsageError
from bgpipe.pipeline.inference.engine import BiRefNetEngine, EngineOptions
from bgpipe.pipeline.inference.precision import DTYPES, cast_network, choose_precision
from bgpipe.pipeline.networks.birefnet.checkpoint import load

SIDES = {"cuda": 8192, "cpu": 1024}
"""Of the matrices whose product is the yardstick: large enough to be compute-bound."""
REFERENCE_SIDE = 1.0
"""Seconds for which it is laid on."""
BATCHES = {"cuda": (1, 2, 4, 8, 16, 32), "cpu": (1, 2, 4)}
LEAST_PASSES = 3
KIB = 1024


def measure(order: BenchRequest) -> Iterator[Machine | NetworkResult]:
    """The machine first, then each trial; one that the device cannot do says so in `error`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    order = replace(order, threads=order.threads or os.cpu_count() or 1)
    torch.set_num_threads(order.threads)
    precisions = order.precisions or tuple(_precisions(device))
    machine = _machine(order, device, precisions)
    yield machine
    batches = order.batches or BATCHES[device.type]
    for precision, batch in itertools.product(precisions, batches):
        try:
            yield _measure_batch(order, device, machine, precision, batch)
        except (TransientError, UsageError) as error:
            yield NetworkResult(precision, batch, error=str(error))


def _precisions(device: torch.device) -> Iterator[Precision]:
    for precision in DTYPES:
        if precision is Precision.FLOAT16 and device.type == "cpu":
            continue  # no CPU multiplies it as fast as float32
        with suppress(UsageError):
            yield choose_precision(precision, device)


def _machine(
    order: BenchRequest, device: torch.device, precisions: tuple[Precision, ...]
) -> Machine:
    on_gpu = device.type == "cuda"
    product = torch.cuda.get_device_name(device) if on_gpu else _processor()
    cuda = f", CUDA {torch.version.cuda}" if on_gpu else f", {order.threads} threads"
    software = f"torch {torch.__version__}{cuda}, Python {platform.python_version()}"
    peaks = {precision: _matrix_peak(device, precision) for precision in precisions}
    return Machine(device.type, product, software, peaks, _operations(order))


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _matrix_peak(device: torch.device, precision: Precision) -> float:
    """Operations a second of a large matrix product, the best of some."""
    side = SIDES[device.type]
    cast_network(torch.nn.Identity(), precision, device)  # sets how float32 is multiplied
    left, right = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in "ab")

    def multiply() -> None:
        torch.mm(left, right)
        _wait(device)

    return 2 * side**3 / min(_timed(multiply, REFERENCE_SIDE))


@torch.inference_mode()
def _operations(order: BenchRequest) -> float:
    """Counted on the plain network: what a rewrite saves counts as speed."""
    counter = FlopCounterMode(display=False)
    with counter:
        load(order.model)(torch.zeros(1, 3, *order.model.size))
    return float(counter.get_total_flops())


def _measure_batch(
    order: BenchRequest, device: torch.device, machine: Machine, precision: Precision, batch: int
) -> NetworkResult:
    _forget_peak(device)
    mode = EngineOptions(precision, compiled=order.compiled, graphs=order.graphs)
    engine = BiRefNetEngine(
        order.model, device.type, batch=batch, threads=order.threads, options=mode
    )
    images = [_image(order.model.size, seed) for seed in range(batch)]
    engine.infer(images)
    if engine.batch < batch:
        return NetworkResult(precision, batch, error="does not fit into the device's memory")
    seconds = median(_timed(lambda: engine.infer(images), order.seconds))
    pace = batch / seconds
    return NetworkResult(
        precision,
        batch,
        images_per_second=pace,
        milliseconds=1e3 * seconds,
        memory=_peak(device),
        share_of_peak=pace * machine.operations / machine.matrix_peak[precision],
    )


def _timed(work: Callable[[], object], seconds: float) -> Iterator[float]:
    """Seconds of each turn, for about `seconds`, `LEAST_PASSES` turns at least."""
    end = time.perf_counter() + seconds
    for number in itertools.count():
        start = time.perf_counter()
        if number >= LEAST_PASSES and start > end:
            return
        work()
        yield time.perf_counter() - start


def _image(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # where it cannot be forgotten, it is that of all trials so far
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return KIB * int(line.split()[1])
    return KIB * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    order = TypeAdapter(BenchRequest).validate_json(sys.stdin.buffer.read())
    line = TypeAdapter[Machine | NetworkResult](Machine | NetworkResult)
    try:
        for found in measure(order):
            sys.stdout.buffer.write(line.dump_json(found) + b"\n")
            sys.stdout.buffer.flush()
    except BgpipeError as error:
        sys.stderr.write(f"bgpipe: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
