"""Half precision of the network or of one part: how much mattes change, and how much CPU time it saves.

    python tests/bench/precision.py [PHOTO ...]

Mattes are those of the bundled model, which is trained, against float32, in levels of 255: the worst photo's
largest difference, 99.9th percentile and mean. A part computes its convolutions in bfloat16 and everything
else in float32. Seconds are CPU time of one thread, medians, types in turn; the larger networks have random
weights. Without photos: four of scikit-image.
"""

from __future__ import annotations

import argparse
import copy
import re
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from model import NAMES, random_network
from PIL import Image
from torch import Tensor, nn

from bgpipe.pipeline.models.hub import Hub
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.networks.birefnet.checkpoint import load
from bgpipe.pipeline.networks.birefnet.fused import FusedBiRefNet, fuse
from bgpipe.pipeline.networks.preprocess import Normalizer

SAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
PARTS = {
    "backbone": r"^bb\.",
    "squeeze module": r"^squeeze",
    "decoder block 4": r"block4\.",
    "decoder block 3": r"block3\.",
    "decoder block 2": r"block2\.",
    "decoder block 1": r"block1\.",
    "lateral": r"lateral",
    "image branches": r"ipt_blk",
    "last convolutions": r"_head",
    "ASPP branches": r"\.branches\.",
}
HALVES = (torch.bfloat16, torch.float16)


def compare_mattes(paths: Sequence[Path]) -> None:
    with tempfile.TemporaryDirectory() as cache:
        model = resolve("birefnet-nano", cache=Path(cache), hub=Hub(timeout=1))
        network = fuse(load(model), model.size)
    normalize = Normalizer(torch.device("cpu"))
    images = [normalize(read_pixels(path, model.size)) for path in paths]
    print("| bundled model | largest | 99.9 % | mean |\n|---|---|---|---|")
    for dtype in HALVES:
        half = copy.deepcopy(network).to(dtype)
        show(f"{dtype}"[6:], [distance(network, half, image, dtype) for image in images])
    for name, pattern in PARTS.items():
        part = cast_part(network, pattern)
        show(f"bfloat16: {name}", [distance(network, part, image) for image in images])


def read_pixels(path: Path, size: tuple[int, int]) -> Tensor:
    """Return uint8 [1, 3, h, w]."""
    image = Image.open(path).convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)[None]).permute(0, 3, 1, 2)


def cast_part(network: FusedBiRefNet, pattern: str) -> nn.Module:
    """Return a copy whose matching convolutions and linear layers compute in bfloat16."""
    part = copy.deepcopy(network)
    for name, module in part.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and re.search(pattern, name):
            module.to(torch.bfloat16)
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(),))
            module.register_forward_hook(lambda _, inputs, out: out.float())
    return part


def distance(
    network: nn.Module, other: nn.Module, image: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[float, ...]:
    """Return the largest difference of the mattes, the 99.9th percentile and the mean, of 255."""
    (exact, _), (moved, _) = network(image), other(image.to(dtype))
    levels = 255 * (exact.sigmoid() - moved.float().sigmoid()).abs()
    figures = (levels.max(), levels.flatten().quantile(0.999), levels.mean())
    return tuple(figure.item() for figure in figures)


def show(name: str, distances: Sequence[tuple[float, ...]]) -> None:
    largest, most, mean = (max(column) for column in zip(*distances, strict=True))
    print(f"| {name} | {largest:.1f} | {most:.1f} | {mean:.3f} |", flush=True)


def compare_times(model: str, side: int, rounds: int) -> None:
    network = fuse(random_network(NAMES[model]), (side, side))
    dtypes = (torch.float32, torch.bfloat16)
    networks = {dtype: copy.deepcopy(network).to(dtype) for dtype in dtypes}
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in networks}
    for _ in range(rounds + 1):
        image = torch.randn(1, 3, side, side)
        for dtype, each in networks.items():
            start = time.process_time()
            each(image.to(dtype))
            seconds[dtype].append(time.process_time() - start)
    exact, half = (median(each[1:]) for each in seconds.values())
    print(f"| {model} {side} | {exact:.2f} / {half:.2f} | {exact / half:.2f} |", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--models", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    spec = find_spec("skimage.data")
    assert given.photos or (spec and spec.origin), "name photos, or install scikit-image"
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    compare_mattes(given.photos or [folder / name for name in SAMPLES])
    print("\n| | CPU s, float32 / bfloat16 | ratio |\n|---|---|---|")
    for model in given.models:
        for side in given.sizes:
            compare_times(model, side, given.rounds)


if __name__ == "__main__":
    main()
