"""Images from file to cutout against the network alone: `python tests/bench/end_to_end.py [--rounds N] [SIZE ...]`.

Alternates forward passes in this process with jobs through queue, worker, lanes and folders, as `bgpipe bench` runs
them; both use one thread per core and a worker's memory settings. The weights are random, but the last layer is
scaled so that a third of a matte is opaque and 4 % soft. Medians of the rounds. If the device is not always busy, it
waits for lanes; if a pass takes longer than alone, it shares its cores with them. SIZE: megapixels.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.bench.end_to_end import MIN_IMAGES, open_bench_cluster
from bgpipe.pipeline.bench.protocol import EndToEndResult
from bgpipe.pipeline.cli.commands.bench import make_random_model
from bgpipe.pipeline.inference.devices import CPU, WorkerDevice
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.inference.engine_cache import available_cores
from bgpipe.pipeline.models.registry import NO_MATTING, resolve
from bgpipe.pipeline.planning.recipe import build_recipe
from bgpipe.pipeline.types import ResolvedModel

MIDDLE, GAIN = 0.077, 1000
"""Two thirds of the logits are below MIDDLE; GAIN multiplies their distance from it."""
PASSES = 3
"""Forward passes between two jobs."""


def main() -> None:
    use_worker_environment()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=float, default=[1.0, 4.0])
    parser.add_argument("--model", default="birefnet-lite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=MIN_IMAGES, help="in a job")
    given = parser.parse_args()
    settings = load_settings()
    with tempfile.TemporaryDirectory() as folder:
        model = harden(make_random_model(settings, given.model, Path(folder)))
        recipe = build_recipe(settings, model=model, matting=NO_MATTING).recipe
        threads = settings.worker.cpu_threads or available_cores()
        engine = BiRefNetEngine(model, "cpu", batch=1, threads=threads)
        alone: list[float] = []
        jobs: dict[float, list[EndToEndResult]] = {size: [] for size in given.sizes}
        with open_bench_cluster(settings, Path(folder)) as cluster:
            cluster.run("first", recipe, given.sizes[0], 1)
            time_pass(engine)
            for number in range(given.rounds):
                for size, results in jobs.items():
                    alone += [time_pass(engine) for _ in range(PASSES)]
                    name = f"{number}-{size:g}"
                    results.append(cluster.run(name, recipe, size, given.images))
    show(given.model, median(alone), jobs)


def use_worker_environment(**others: str) -> None:
    """Start this program again with the variables of a worker on a CPU, which glibc and OpenMP read once."""
    wanted = WorkerDevice(CPU).environment | others
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | wanted)


def harden(model: ResolvedModel) -> ResolvedModel:
    """Shift and multiply the logits of random weights, which would make all of a matte soft."""
    with safe_open(model.path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(model.path)
    weight, bias = (tensors[f"decoder.conv_out1.0.{name}"] for name in ("weight", "bias"))
    weight *= GAIN
    bias.sub_(MIDDLE).mul_(GAIN)
    path = model.path.with_name("hard.safetensors")
    save_file(tensors, path, header)
    resolved = resolve(str(path), cache=path.parent, hub=None)
    return replace(resolved, size=model.size)


def time_pass(engine: BiRefNetEngine) -> float:
    image = np.zeros((*engine.size, 3), np.uint8)
    start = time.perf_counter()
    engine.infer([image])
    return time.perf_counter() - start


def show(model: str, alone: float, jobs: dict[float, list[EndToEndResult]]) -> None:
    print(
        f"| {model} | images/s | of the network alone | device busy | s a pass |\n|---|---|---|---|---|"
    )
    print(f"| network alone | {1 / alone:.3f} | | | {alone:.3f} |")
    for size, results in jobs.items():
        rate = median(each.images_per_second for each in results)
        busy = median(each.device_busy for each in results)
        step = median(each.device_busy / each.images_per_second for each in results)
        print(f"| {size:g} MP | {rate:.3f} | {rate * alone:.1%} | {busy:.1%} | {step:.3f} |")


if __name__ == "__main__":
    main()
