"""The network that an engine runs beside the plain one, on a CPU in float32.

    python tests/bench/model.py --rounds 3

Plain is the network that is trained, eager: its linear layers are torch's own, its deformable
convolutions one grid_sample for each tap. Both take the same images in turn. Seconds are medians over the rounds;
memory is the peak of the process above what it held before, for one image. The weights are random,
with offsets of some pixels: for time and memory they are as good as trained ones.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet import BiRefNet, create
from bgpipe.pipeline.networks.birefnet.deform_conv import DeformableConv
from bgpipe.pipeline.networks.birefnet.fused import fuse
from bgpipe.pipeline.networks.birefnet.layers import make_dense

NAMES = {"lite": "swin_v1_t", "general": "swin_v1_l"}
MIB = 2**20


class EagerDeformableConv(nn.Module):
    """A deformable convolution by what torch has for sampling, tap by tap."""

    def __init__(self, conv: DeformableConv) -> None:
        super().__init__()
        self.offset_conv, self.modulator_conv = conv.offset_conv, conv.modulator_conv
        self.weight = conv.regular_conv.weight

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = self.offset_conv(x), 2 * torch.sigmoid(self.modulator_conv(x))
        height, width = x.shape[2:]
        kernel = self.weight.shape[2]
        line = torch.arange(height).view(-1, 1)
        column = torch.arange(width)
        out = x.new_zeros(())
        for tap in range(kernel**2):
            i, j = divmod(tap, kernel)
            y = line + i - kernel // 2 + offset[:, 2 * tap]
            at = column + j - kernel // 2 + offset[:, 2 * tap + 1]
            grid = torch.stack((2 * at / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
            values = F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)
            out = out + F.conv2d(
                values * mask[:, tap : tap + 1], self.weight[:, :, i : i + 1, j : j + 1]
            )
        return out


def random_network(name: str) -> BiRefNet:
    torch.manual_seed(0)
    network = create(name)
    for module in network.modules():
        if isinstance(module, DeformableConv):
            for conv in (module.offset_conv, module.modulator_conv):
                nn.init.normal_(conv.weight, std=0.03)
                nn.init.normal_(conv.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.requires_grad_(False)


def make_eager(network: BiRefNet) -> BiRefNet:
    """Replace every deformable convolution, on the same weights."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DeformableConv):
                setattr(module, name, EagerDeformableConv(child))
    return network


@dataclass
class Times:
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    def run(self, network: nn.Module, image: Tensor, *, trains: bool = False) -> Tensor:
        held = reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.inference_mode(not trains):  # linear layers by oneDNN have no gradient
            logits: Tensor = network(image)
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        self.memory.append(status("VmHWM") - held)
        return logits


def reset_peak() -> int:
    """Forget the peak of resident memory; returns what is resident, in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what earlier runs left behind is used again, unseen
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def compare(model: str, side: int, rounds: int) -> None:
    network = random_network(NAMES[model])
    fused = fuse(network, (side, side))
    plain = make_eager(network)
    small = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        plain(small), fuse(random_network(NAMES[model]), (64, 64))(small)
    old, new, distance, size = Times(), Times(), 0.0, 0.0
    for _ in range(rounds):
        image = torch.randn(1, 3, side, side)
        expected = old.run(plain, image, trains=True)
        distance = max(distance, (new.run(fused, image)[0] - expected).abs().max().item())
        size = max(size, expected.abs().max().item())
    ratio = median(a / b for a, b in zip(old.wall, new.wall, strict=True))
    cpu_ratio = median(a / b for a, b in zip(old.cpu, new.cpu, strict=True))
    memory = [max(times.memory[-2:]) / MIB for times in (old, new)]
    print(
        f"| {model}, {side} x {side} | {median(old.cpu):.1f} / {median(new.cpu):.1f} | {cpu_ratio:.1f} |"
        f" {ratio:.1f} | {memory[0]:.0f} / {memory[1]:.0f} | {memory[1] / memory[0]:.0%} |"
        f" {distance:.0e} of {size:.1f} |",
        flush=True,
    )


@torch.inference_mode()
def compare_products() -> None:
    """The matrix product of a Swin block by torch's own linear layer and by ours, on one thread."""
    torch.set_num_threads(1)
    x, layer = torch.randn(4096, 768), nn.Linear(768, 2304).requires_grad_(False)
    ways = {"torch": layer, "ours": make_dense(layer.weight, layer.bias)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(9):
        for name, way in ways.items():
            start = time.process_time()
            way(x)
            seconds[name].append(time.process_time() - start)
    rates = (f"{name} {2e-9 * 4096 * 768 * 2304 / median(seconds[name]):.0f}" for name in ways)
    print("GFLOP/s of a float32 product on one core:", ", ".join(rates), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[512, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    compare_products()
    torch.set_num_threads(given.threads)
    print(
        "| | CPU s, plain / ours | ratio | wall, ratio | peak MiB, plain / ours | share | logits differ by |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model in given.models:
        for side in given.sizes:
            compare(model, side, given.rounds)


if __name__ == "__main__":
    main()
