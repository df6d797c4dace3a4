"""bgpipe and rembg around networks of equal cost: `python tests/bench/beside_rembg.py PYTHON [--rounds N]`.

PYTHON is an interpreter of this version with rembg (measured: rembg 2.0.86, onnxruntime 1.32):

    python3 -m venv /tmp/rembg && /tmp/rembg/bin/pip install rembg==2.0.86 onnxruntime onnx

JPEG to PNG in memory on one thread, by `BackgroundRemover.file` and by rembg's `remove`, both with a worker's memory settings;
rembg plain and with its estimation of the foreground, which bgpipe always does. Measured twice: first both run the
bundled network, at the size of rembg's session u2net_custom; then bgpipe runs birefnet-lite with random weights, and
rembg, in its session dis_custom, a stack of convolutions that takes the same time. The output is replaced by the
matte of images.py, so that all later steps work on the same matte. CPU time, the minimum over the rounds, which
alternate. `--network nano|lite` runs only one of the two.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from end_to_end import use_worker_environment
from images import photo, samples, seconds, soft_disc
from model import random_network
from torch import Tensor, nn

from bgpipe.pipeline.api.remover import BackgroundRemover
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.networks.birefnet.checkpoint import load
from bgpipe.pipeline.networks.birefnet.fused import fuse
from bgpipe.pipeline.types import Output

SIZES = (1.0, 4.0, 12.0)
NANO, LITE = (320, 320), (1024, 1024)
"""The sizes of rembg's sessions u2net_custom and dis_custom."""
LAYERS = 4
"""Convolutions of the first trial stack; the second has twice as many."""
WIDTH, STRIDE = 64, 4
"""Channels of a stack, and the stride of its first convolution."""
NOTHING = 1e-30
"""Weight of the network's output in the matte: too small to change it, and kept by ONNX's optimizer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--network", choices=("nano", "lite"))
    given = parser.parse_args()
    use_worker_environment(OMP_NUM_THREADS="1")
    cv2.setNumThreads(1)
    find = "import onnx, rembg, sysconfig; print(sysconfig.get_path('platlib'))"
    found = subprocess.run([given.python, "-c", find], capture_output=True, text=True, check=False)
    if found.returncode:
        parser.error(f"not an interpreter with rembg and onnx: {given.python}: see {__file__}")
    sys.path.append(found.stdout.strip())  # torch's exporter imports onnx
    with tempfile.TemporaryDirectory() as folder, rembg(given.python, folder) as other:
        for name, prepare in {"nano": prepare_nano, "lite": prepare_lite}.items():
            if given.network in (None, name):
                engine, alone = prepare(Path(folder), other)
                show(name, engine, alone, other, Path(folder), given.rounds)


@dataclass(frozen=True, slots=True)
class Rembg:
    process: subprocess.Popen[str]

    def ask(self, *words: object) -> float:
        """Return the CPU seconds that it took."""
        assert self.process.stdin
        assert self.process.stdout
        print(*words, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


@contextmanager
def rembg(python: str, home: str) -> Iterator[Rembg]:
    """Run rembg_server.py, which reads its models from `home`."""
    environment = os.environ | {"REMBG_HOME": home, "NUMBA_NUM_THREADS": "1"}
    command = [python, Path(__file__).with_name("rembg_server.py")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Rembg(process)
        finally:
            process.kill()


def prepare_nano(folder: Path, other: Rembg) -> tuple[BiRefNetEngine, float]:
    """Load the bundled network in both; returns the seconds of rembg's too."""
    model, matte = resolve("birefnet-nano", cache=folder), disc(NANO)
    engine = make_engine(Replaced(fuse(load(model), NANO), matte.logit()), NANO, folder)
    network = Computed(load(model), matte)
    return engine, other.ask("load", "u2net_custom", export(network, NANO, folder))


def prepare_lite(folder: Path, other: Rembg) -> tuple[BiRefNetEngine, float]:
    """Load birefnet-lite here, and there as many convolutions as take its time."""
    matte = disc(LITE)
    engine = make_engine(
        Replaced(fuse(random_network("swin_v1_t"), LITE), matte.logit()), LITE, folder
    )

    def cost(layers: int) -> float:
        first = nn.Conv2d(3, WIDTH, STRIDE, STRIDE)
        others = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(layers))
        network = Computed(nn.Sequential(first, *others), matte)
        return other.ask("load", "dis_custom", export(network, LITE, folder))

    wanted, few, many = time_network(engine), cost(LAYERS), cost(2 * LAYERS)
    return engine, cost(LAYERS + round(LAYERS * (wanted - few) / (many - few)))


def disc(size: tuple[int, int]) -> Tensor:
    """Return the matte of images.py [1, 1, h, w]."""
    matte = cv2.resize(soft_disc(), size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(matte)[None, None].clamp(1e-4, 1 - 1e-4)


def make_engine(network: nn.Module, size: tuple[int, int], cache: Path) -> BiRefNetEngine:
    model = replace(resolve("birefnet-nano", cache=cache), size=size)
    return BiRefNetEngine(model, "cpu", batch=1, threads=1, load=lambda _: network)


class Replaced(nn.Module):
    """Runs the engine's network, and returns fixed logits instead of its own."""

    def __init__(self, network: nn.Module, logits: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("logits", logits)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        _, coarse = self.network(image)
        return self.logits, coarse


class Computed(nn.Module):
    """The same for ONNX, whose optimizer drops operations without an effect."""

    def __init__(self, network: nn.Module, matte: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("matte", matte)

    def forward(self, image: Tensor) -> Tensor:
        return self.matte + NOTHING * self.network(image).mean()


def export(network: nn.Module, size: tuple[int, int], folder: Path) -> Path:
    """Write the network as ONNX."""
    path = folder / "network.onnx"
    with warnings.catch_warnings(action="ignore"):  # the old exporter, which needs least
        torch.onnx.export(network.eval(), (torch.zeros(1, 3, *size),), path, dynamo=False)
    return path


def show(
    name: str, engine: BiRefNetEngine, alone: float, other: Rembg, folder: Path, rounds: int
) -> None:
    """Print a table; `alone` are the seconds of rembg's network."""
    remover = BackgroundRemover("birefnet-nano")
    remover._engines = engine, None
    remover.recipe = replace(remover.recipe, size=engine.size)
    print(f"| {name}, s of CPU | bgpipe | rembg | rembg, decontaminated |\n|---|---|---|---|")
    network = min(time_network(engine) for _ in range(rounds))
    print(f"| network alone | {network:.2f} | {alone:.2f} | {alone:.2f} |", flush=True)
    for size in SIZES:
        data, path = photo(samples(), size), folder / "photo.jpg"
        path.write_bytes(data)

        def make(data: bytes = data) -> bytes:
            return remover.file(data, Output())

        rows = [
            (seconds(make), other.ask("remove", path, 0), other.ask("remove", path, 1))
            for _ in range(rounds)
        ]
        least = [min(column) for column in zip(*rows, strict=True)]
        cells = (f"{each:.2f} ({each / least[0]:.2f}x)" for each in least[1:])
        print(f"| {size:g} MP | {least[0]:.2f} | " + " | ".join(cells) + " |", flush=True)
    print(flush=True)


def time_network(engine: BiRefNetEngine) -> float:
    blank = [np.zeros((*engine.size, 3), np.uint8)]
    engine.infer(blank)
    return seconds(lambda: engine.infer(blank))


if __name__ == "__main__":
    main()
