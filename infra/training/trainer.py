"""Network, optimiser and averaged weights of a run, and how one batch takes them forward."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from checkpoint import Progress, restore, save
from compose import Mix
from evaluate import Score
from export import DERIVED, GAIN, SIDE, export
from ranks import ALONE, Ranks
from safetensors.torch import load_file
from supervision import loss_of
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bgpipe.pipeline.model import CONFIGS, BiRefNet, build
from bgpipe.pipeline.model.decoder import Decoder, resize_like
from bgpipe.pipeline.model.deform import DeformableConv
from bgpipe.pipeline.model.parts import part
from bgpipe.pipeline.model.resize import DEVIATION, MEAN

Judge = Callable[[Path], Score | None]

WARM_UP = 0.03  # of a leg
LAST_RATE = 0.02  # of the highest learning rate
WEIGHT_DECAY = 0.03
LONGEST_GRADIENT = 2.0
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Leg:
    """The settings of one leg, which ends after `minutes` or `samples`, whichever comes first."""

    size: int
    batch: int
    rate: float
    mix: Mix = field(default_factory=Mix)
    minutes: float = math.inf
    samples: float = math.inf


@dataclass(frozen=True)
class Run:
    data: Path
    out: Path
    leg: Leg
    without: tuple[str, ...] = ()  # what of the data is left out: patterns, see library.py
    model: str = "birefnet_nano"
    native: int = SIDE  # pixels that the weights are for in the end, and are judged at
    seed: int = 0
    average_decay: float = 0.998  # of the averaged weights, per step
    precision: str = "float32"
    plain: bool = True  # deformable convolutions as plain ones
    workers: int = 1
    threads: int = 1  # of the validation
    checkpoint_minutes: float = 3.0
    stop_after: float = math.inf  # minutes of this process
    resume: bool = False
    start: Path | None = None  # weights of another run, to begin from
    ranks: Ranks = ALONE


class Trainer:
    def __init__(self, run: Run) -> None:
        torch.manual_seed(run.seed)
        self.run = run
        self.device = run.ranks.device
        # With channels last, convolutions need no copies on a CPU and suit the cores of a GPU.
        # What the colours say is left out: a network that is told relies on it where it need not.
        network = build(replace(CONFIGS[run.model], evidence=False)).train()
        self.network = network.to(self.device, memory_format=torch.channels_last)
        initialise(self.network)
        if run.start:
            begin_from(run.start, self.network)
        enlarge_last(self.network.decoder)
        if run.plain:
            sample_plainly(self.network)
        self.optimiser = torch.optim.AdamW(_by_decay(self.network), fused=True)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self._fractions = [k for k, v in self.average.items() if v.is_floating_point()]
        self._dtype = PRECISIONS[run.precision]
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype is torch.float16)
        self.progress = Progress(leg=asdict(run.leg))
        if run.resume:
            self._resume()

    @property
    def done(self) -> float:
        """Share of the leg that is behind, in [0, 1]."""
        progress, leg = self.progress, self.run.leg
        by_time = progress.leg_seconds / (60 * leg.minutes)
        return min(max(by_time, progress.leg_samples / leg.samples), 1.0)

    def step(self, images: Tensor, alphas: Tensor) -> float:
        """One update from images uint8 [B,S,S,3] and alphas uint8 [B,S,S]; returns the loss."""
        image, alpha = as_input(images.to(self.device)), alphas.to(self.device)[:, None] / 255
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            loss = loss_of(self.network, image, alpha)
        torch.autograd.backward(self._scaler.scale(loss))
        self._update()
        self.progress.step += 1
        self.progress.samples += len(images) * self.run.ranks.count
        self.progress.leg_samples += len(images) * self.run.ranks.count
        self._follow()
        return loss.item()

    def advance_clock(self, seconds: float) -> None:
        self.progress.seconds += seconds
        self.progress.leg_seconds += seconds

    @property
    def weights(self) -> Path:
        """The averaged weights of the last save."""
        return self.run.out / "weights.safetensors"

    def save(self, judge: Judge | None = None) -> Score | None:
        """Write the averaged weights, also as the leg's best where `judge` has not seen better
        ones, and then the checkpoint; returns what `judge` says of the weights.
        """
        self.run.out.mkdir(parents=True, exist_ok=True)
        export(self.average, self.run.model, self.weights, self.run.native)
        score = judge(self.weights) if judge else None
        if score is not None and score.iou > self.progress.best:
            self.progress.best = score.iou
            shutil.copyfile(self.weights, self.run.out / "best.safetensors")
        save(self._checkpoint, self.network, self.average, self.optimiser, self.progress)
        return score

    @property
    def _checkpoint(self) -> Path:
        return self.run.out / "checkpoint.safetensors"

    def _resume(self) -> None:
        progress = restore(self._checkpoint, self.network, self.average, self.optimiser)
        if progress.leg != asdict(self.run.leg):
            progress.begin(asdict(self.run.leg))
        self.progress = progress

    def _update(self) -> None:
        """Descend along the mean gradient of all processes."""
        self.run.ranks.average_(p.grad for p in self.network.parameters() if p.grad is not None)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self._scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), LONGEST_GRADIENT)
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self.optimiser.zero_grad()

    def _rate(self) -> float:
        rate = self.run.leg.rate
        if self.done < WARM_UP:
            return rate * (0.01 + self.done / WARM_UP)
        falling = 0.5 + 0.5 * math.cos(math.pi * (self.done - WARM_UP) / (1 - WARM_UP))
        return rate * (LAST_RATE + (1 - LAST_RATE) * falling)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights towards the network's; fast at first, when these are bad."""
        steps = self.progress.step
        keep = min(self.run.average_decay, (1 + steps) / (10 + steps))
        now = self.network.state_dict()
        averages = [self.average[name] for name in self._fractions]
        get_ema_multi_avg_fn(keep)(averages, [now[name] for name in self._fractions], steps)
        for name in now.keys() - set(self._fractions):
            self.average[name].copy_(now[name])


def initialise(network: BiRefNet) -> None:
    """Kaiming weights for every convolution that does not start at zero."""
    zeros = {
        conv
        for module in network.modules()
        if isinstance(module, DeformableConv)
        for conv in (module.offset_conv, module.modulator_conv)
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module not in zeros:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def begin_from(weights: Path, network: BiRefNet) -> None:
    """Fill `network` with exported weights. Raises ValueError for those of another network."""
    tensors = load_file(weights)
    tensors.pop(GAIN, None)
    missing, unknown = network.load_state_dict(tensors, strict=False)
    if lacks := [*unknown, *(name for name in missing if not name.endswith(DERIVED))]:
        raise ValueError(f"weights of another network: {weights}: {lacks[0]}")


def sample_plainly(network: BiRefNet) -> None:
    """Leave offsets at zero and modulators at one. A deformable convolution then is a plain one,
    the same function several times as fast, and the weights still load anywhere.
    """
    for module in network.modules():
        if isinstance(module, DeformableConv):
            module.forward = module.regular_conv.forward  # type: ignore[method-assign,assignment]


def enlarge_last(decoder: Decoder) -> None:
    """Let the decoder enlarge its logits instead of the map that they are made of: the same function,
    as a 1x1 convolution commutes with a resize, and a sixth of a step's time less.
    """
    last = part(decoder, "conv_out1.0", nn.Conv2d)
    wide = last.in_channels - decoder.ipt_blk1.conv_out.out_channels

    def head(x: Tensor, image: Tensor) -> Tensor:
        from_map, from_image = last.weight[:, :wide], last.weight[:, wide:]
        small = F.conv2d(x, from_map, last.bias)
        return resize_like(small, image) + F.conv2d(decoder.ipt_blk1(image), from_image)

    decoder.head = head  # type: ignore[method-assign]


def as_input(images: Tensor) -> Tensor:
    """uint8 [B,H,W,3] to normalised [B,3,H,W], channels last in memory."""
    mean, deviation = (torch.tensor(x, device=images.device) for x in (MEAN, DEVIATION))
    return ((images / 255 - mean) / deviation).permute(0, 3, 1, 2)


def _by_decay(network: nn.Module) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels, none for biases, norms and position tables."""
    trained = list(network.named_parameters())
    bare = [p for name, p in trained if p.ndim < 2 or "bias" in name]
    rest = [p for name, p in trained if not (p.ndim < 2 or "bias" in name)]
    return [{"params": rest, "weight_decay": WEIGHT_DECAY}, {"params": bare, "weight_decay": 0.0}]
