"""Network, optimiser and averaged weights of a run, and one step of training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from checkpoint import MODEL, export, restore, save
from pretrained import fill
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file
from supervision import Supervision
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bgpipe.pipeline.networks.birefnet import CONFIGS, BiRefNet, build
from bgpipe.pipeline.networks.birefnet.efficientnet import EfficientNet
from bgpipe.pipeline.networks.birefnet.layers import submodule
from bgpipe.pipeline.networks.preprocess import DEVIATION, MEAN

SIDE = 288  # native size of the bundled weights
WARM_UP = 0.02  # of a run
LAST_RATE = 0.02  # of the highest learning rate
WARM = 0.25  # of the learning rate, for pretrained features
WEIGHT_DECAY = 0.03
LONGEST_GRADIENT = 2.0


@dataclass(frozen=True)
class Run:
    """The options of train.py."""

    data: Path
    out: Path
    samples: int  # of the whole run, including those before it was resumed
    sizes: tuple[int, ...] = (SIDE,)  # of batches, drawn at random
    last_sizes: tuple[int, ...] = (SIDE,)  # in the last part of the run
    last: float = 0.3  # share of the last part
    batch: int = 16
    rate: float = 1e-3  # the highest learning rate
    seed: int = 0
    average_decay: float = 0.995  # of the averaged weights, per step
    threads: int = 1  # sharing each batch
    checkpoint_minutes: float = 5.0
    bfloat16: bool = False  # for products; weights and depthwise convolutions stay float32
    start: Path | None = None  # weights of another run to begin with
    resume: bool = False

    @property
    def steps(self) -> int:
        return math.ceil(self.samples / self.batch)

    def sizes_after(self, steps: int) -> tuple[int, ...]:
        return self.last_sizes if steps >= self.steps * (1 - self.last) else self.sizes


class Trainer:
    def __init__(self, run: Run, features: Path | None = None) -> None:
        torch.manual_seed(run.seed)
        self.run = run
        self.weights = run.out / "weights.safetensors"
        self._checkpoint = run.out / "checkpoint.safetensors"
        # With channels last, convolutions need no copies on a CPU.
        self.network = build(CONFIGS[MODEL]).train().to(memory_format=torch.channels_last)
        initialise(self.network)
        if features:
            fill(submodule(self.network, "bb", EfficientNet), features)
            freeze_norms(self.network.bb)
        if run.start:
            self.network.load_state_dict(load_file(run.start), strict=False)
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.forward = partial(in_float32, module.forward)  # type: ignore[method-assign]
        self._loss = Supervision(self.network)
        # torch's own threads synchronise in every operation, these once a step.
        self._pool = ThreadPoolExecutor(run.threads)
        self.optimiser = torch.optim.AdamW(_groups(self.network), fused=True)
        tensors = self.network.state_dict().items()
        self.average = {k: v.detach().clone() for k, v in tensors if v.is_floating_point()}
        state = (self.network, self.average, self.optimiser)
        self.steps = restore(self._checkpoint, *state) if run.resume else 0

    def step(self, images: Tensor, alphas: Tensor) -> float:
        """Update from images uint8 [B,S,S,3] and alphas uint8 [B,S,S]; returns the loss."""
        parts = (x.chunk(self.run.threads) for x in (images, alphas))
        loss = sum(self._pool.map(self._learn, *parts))
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate() * group["share"]
        nn.utils.clip_grad_norm_(self.network.parameters(), LONGEST_GRADIENT)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.steps += 1
        self._follow()
        return loss

    def save(self) -> None:
        self.run.out.mkdir(parents=True, exist_ok=True)
        export(self.average, MODEL, self.weights, SIDE)
        save(self._checkpoint, self.network, self.average, self.optimiser, self.steps)

    def _learn(self, images: Tensor, alphas: Tensor) -> float:
        """Accumulate the gradient of a part of a batch."""
        torch.set_num_threads(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.run.bfloat16):
            loss = self._loss(as_input(images), alphas[:, None] / 255) / self.run.threads
        torch.autograd.backward(loss)
        return loss.item()

    def _rate(self) -> float:
        done = self.steps / self.run.steps
        if done < WARM_UP:
            return self.run.rate * (0.01 + done / WARM_UP)
        falling = 0.5 + 0.5 * math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))
        return self.run.rate * (LAST_RATE + (1 - LAST_RATE) * falling)

    @torch.no_grad()
    def _follow(self) -> None:
        """Update the averaged weights, with less memory in the first steps."""
        keep = min(self.run.average_decay, (1 + self.steps) / (10 + self.steps))
        now = self.network.state_dict()
        averages = list(self.average.values())
        get_ema_multi_avg_fn(keep)(averages, [now[name] for name in self.average], self.steps)


def initialise(network: BiRefNet) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a depthwise convolution: its gradient takes oneDNN three times as long in bfloat16."""
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(x.dtype)


def freeze_norms(backbone: nn.Module) -> None:
    """Keep the statistics of every norm: batches are too small to estimate them."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def as_input(images: Tensor) -> Tensor:
    """Convert uint8 [B,H,W,3] to normalised [B,3,H,W], channels last in memory."""
    return ((images / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(0, 3, 1, 2)


def _groups(network: nn.Module) -> list[dict[str, object]]:
    """Return the trained parameters by share of the rate and weight decay (none for biases and norms)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        groups[name.startswith("bb."), parameter.ndim < 2].append(parameter)
    return [
        {"params": some, "share": WARM if warm else 1, "weight_decay": 0 if bare else WEIGHT_DECAY}
        for (warm, bare), some in groups.items()
    ]
