"""Train a BiRefNet on samples composed on the fly.

    python infra/training/train.py --data DIR --out DIR --minutes 60 --size 128

A run is made of legs: parts with one size, batch and learning rate, each with its own warm-up and
cosine. `--resume` continues the leg it finds; with other settings it begins the next leg from the
same weights. The last checkpoint is OUT/checkpoint.safetensors, the averaged weights in the form
that ships are OUT/weights.safetensors, the losses are OUT/log.jsonl.

Several GPUs, or the cores of a busy machine, share one run, each with its part of every batch:

    torchrun --nproc-per-node 2 infra/training/train.py ... --threads 1
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import torch
from checkpoint import Progress, restore, save
from compose import Composer
from export import export
from library import load_library
from ranks import ALONE, Ranks, join
from supervision import loss_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bgpipe.pipeline.model import BiRefNet, create
from bgpipe.pipeline.model.deform import DeformableConv

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 0.03  # of a leg
LAST_RATE = 0.02  # of the highest learning rate
LONGEST_GRADIENT = 2.0
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Leg:
    """The settings of one leg; `minutes` is the length of its schedule."""

    minutes: float
    size: int
    batch: int
    rate: float
    photo_share: float
    weight_decay: float = 0.03


@dataclass(frozen=True)
class Run:
    data: Path
    out: Path
    leg: Leg
    model: str = "birefnet_nano"
    seed: int = 0
    average_decay: float = 0.998
    precision: str = "float32"
    plain: bool = True
    workers: int = 1
    checkpoint_minutes: float = 3.0
    stop_after: float = math.inf  # minutes of this process
    resume: bool = False
    ranks: Ranks = ALONE


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Endless: this process's share, every `ranks.count`th, of the samples from `first` on."""

    def __init__(self, composer: Composer, first: int, ranks: Ranks) -> None:
        self.composer, self.first, self.ranks = composer, first + ranks.rank, ranks

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.composer(self.first + index * self.ranks.count)
        return torch.from_numpy(sample.rgb), torch.from_numpy(sample.alpha)


class Trainer:
    """Network, optimiser and averaged weights of a run, taken forward batch by batch."""

    def __init__(self, run: Run) -> None:
        torch.manual_seed(run.seed)
        self.run = run
        self.device = run.ranks.device
        self.network = create(run.model).train().to(self.device)
        initialise(self.network)
        if run.plain:
            sample_plainly(self.network)
        self.optimiser = torch.optim.AdamW(
            _by_decay(self.network, run.leg.weight_decay), fused=True
        )
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=PRECISIONS[run.precision] is torch.float16
        )
        self.progress = Progress(leg=asdict(run.leg))
        if run.resume:
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.run.out / "checkpoint.safetensors"

    def step(self, images: Tensor, alphas: Tensor) -> float:
        """One update from images uint8 [B,S,S,3] and alphas uint8 [B,S,S]; returns the loss."""
        image, alpha = as_input(images.to(self.device)), alphas.to(self.device)[:, None] / 255
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        dtype = PRECISIONS[self.run.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            loss = loss_of(self.network, image, alpha)
        torch.autograd.backward(self.scaler.scale(loss))
        self.run.ranks.average_(p.grad for p in self.network.parameters() if p.grad is not None)
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), LONGEST_GRADIENT)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad()
        self.progress.step += 1
        self.progress.samples += len(images) * self.run.ranks.count
        self._follow()
        return loss.item()

    def advance_clock(self, seconds: float) -> None:
        self.progress.seconds += seconds
        self.progress.leg_seconds += seconds

    @property
    def done(self) -> float:
        """Share of the leg that is behind, in [0, 1]."""
        return min(self.progress.leg_seconds / (60 * self.run.leg.minutes), 1.0)

    def save(self) -> None:
        self.run.out.mkdir(parents=True, exist_ok=True)
        save(self.checkpoint, self.network, self.average, self.optimiser, self.progress)
        export(self.average, self.run.model, self.run.out / "weights.safetensors")

    def _resume(self) -> None:
        progress = restore(self.checkpoint, self.network, self.average, self.optimiser)
        if progress.leg != asdict(self.run.leg):
            progress.leg, progress.leg_seconds = asdict(self.run.leg), 0.0
        self.progress = progress

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
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - keep)
            else:
                self.average[name].copy_(tensor)


def train(run: Run) -> Trainer:
    """Train until the leg, or this process's share of it, is over."""
    trainer = Trainer(run)
    started = saved = trainer.progress.seconds
    clock = time.monotonic()
    losses: list[float] = []
    for images, alphas in batches(run, trainer.progress.samples):
        losses.append(trainer.step(images, alphas))
        before, clock = clock, time.monotonic()
        trainer.advance_clock(run.ranks.mean(clock - before))
        now = trainer.progress.seconds
        over = trainer.done >= 1 or now - started >= 60 * run.stop_after
        if over or now - saved >= 60 * run.checkpoint_minutes:
            if run.ranks.leads:
                trainer.save()
                log(run, trainer.progress, losses, now - saved)
            saved, losses = now, []
        if over:
            break
    return trainer


def batches(run: Run, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of samples from index `first` on, composed in `run.workers` processes."""
    library = load_library(run.data, side=max(320, run.leg.size))
    composer = Composer(library, run.leg.size, run.seed, run.leg.photo_share)
    return iter(
        DataLoader(
            Samples(composer, first, run.ranks),
            batch_size=run.leg.batch // run.ranks.count,
            num_workers=run.workers,
            prefetch_factor=8 if run.workers else None,
            # Forked processes share the library; sent to fresh ones it would be copied.
            multiprocessing_context="fork" if run.workers else None,
            worker_init_fn=_one_thread,
        )
    )


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


def sample_plainly(network: BiRefNet) -> None:
    """Leave offsets at zero and modulators at one. A deformable convolution then is a plain one,
    the same function several times as fast, and the weights still load anywhere.
    """
    for module in network.modules():
        if isinstance(module, DeformableConv):
            module.forward = module.regular_conv.forward  # type: ignore[method-assign,assignment]


def as_input(images: Tensor) -> Tensor:
    """uint8 [B,H,W,3] to normalised [B,3,H,W]."""
    mean, std = (torch.tensor(x, device=images.device) for x in (MEAN, STD))
    return ((images / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def log(run: Run, progress: Progress, losses: list[float], seconds: float) -> None:
    line = {
        "step": progress.step,
        "samples": progress.samples,
        "minutes": round(progress.seconds / 60, 2),
        "loss": round(sum(losses) / len(losses), 4),
        "images_per_second": round(len(losses) * run.leg.batch / seconds, 1),
    }
    text = json.dumps(line)
    print(text, flush=True)
    with (run.out / "log.jsonl").open("a") as file:
        file.write(text + "\n")


def _by_decay(network: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels, none for biases, norms and position tables."""
    trained = list(network.named_parameters())
    bare = [p for name, p in trained if p.ndim < 2 or "bias" in name]
    rest = [p for name, p in trained if not (p.ndim < 2 or "bias" in name)]
    return [{"params": rest, "weight_decay": decay}, {"params": bare, "weight_decay": 0.0}]


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)


def parse(arguments: list[str] | None = None) -> Run:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder described in library.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, required=True, help="length of this leg")
    parser.add_argument("--size", type=int, default=256, help="pixels, a multiple of 32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--photo-share", type=float, default=0.55, help="of photos as they are")
    parser.add_argument("--model", default="birefnet_nano", help="a name in model/config.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--average-decay", type=float, default=0.998, help="per step")
    parser.add_argument("--precision", choices=PRECISIONS, default=_usual_precision())
    parser.add_argument("--deform", action="store_true", help="learn the deformable offsets too")
    parser.add_argument("--workers", type=int, default=1, help="processes that compose samples")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0)
    parser.add_argument("--stop-after", type=float, default=math.inf, help="minutes; then resume")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return Run(
        data=given.data,
        out=given.out,
        leg=Leg(given.minutes, given.size, given.batch, given.rate, given.photo_share),
        model=given.model,
        seed=given.seed,
        average_decay=given.average_decay,
        precision=given.precision,
        plain=not given.deform,
        workers=given.workers,
        checkpoint_minutes=given.checkpoint_minutes,
        stop_after=given.stop_after,
        resume=given.resume,
        ranks=join(),
    )


def _usual_precision() -> str:
    return "bfloat16" if torch.cuda.is_available() else "float32"


if __name__ == "__main__":
    train(parse())
