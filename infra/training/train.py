"""Train the bundled model on samples composed on the fly.

    python infra/training/train.py --data DIR --out DIR --minutes 75 --sizes 192 224 256 --last-sizes 288 320

OUT/checkpoint.safetensors is the last checkpoint (`--resume` continues from it), OUT/weights.safetensors
the averaged weights as they ship, OUT/weights-MINUTES.safetensors those of each checkpoint, and
OUT/log.jsonl has losses and speeds. All options: Run in trainer.py.

glibc returns large blocks to the system at every step, which costs up to half the speed on a CPU; set
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 to keep them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from compose import Composer
from library import load_library
from pretrained import checkpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from trainer import Run, Trainer

CACHED_SIDE = 384  # pixels of the longer side of an image in memory


def train(run: Run, features: Path | None = None) -> Trainer:
    """Train to the end of the run, the backbone initialised from `features` if given."""
    trainer = Trainer(run, features)
    composer = Composer(load_library(run.data, CACHED_SIDE), run.seed)
    saved = trainer.progress.seconds
    losses: list[float] = []
    over = trainer.done >= 1
    while not over:
        sizes, clock = trainer.sizes, time.monotonic()
        for images, alphas in loader(run, composer, sizes, trainer.progress.step):
            losses.append(trainer.step(images, alphas))
            before, clock = clock, time.monotonic()
            trainer.progress.seconds += clock - before
            now = trainer.progress.seconds
            over = trainer.done >= 1
            if over or now - saved >= 60 * run.checkpoint_minutes:
                trainer.save()
                write_log(trainer, losses, now - saved)
                saved, losses, clock = now, [], time.monotonic()
            if over or trainer.sizes != sizes:
                break
    return trainer


@dataclass(frozen=True)
class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Yield batches from number `first` on, each at a random one of the sizes, without end."""

    composer: Composer
    batch: int
    sizes: tuple[int, ...]
    first: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in itertools.count(self.first):
            size = self.sizes[np.random.default_rng((step, 1)).integers(len(self.sizes))]
            numbers = range(step * self.batch, (step + 1) * self.batch)
            samples = [self.composer(number, size) for number in numbers]
            rgb, alpha = ([getattr(s, part) for s in samples] for part in ("rgb", "alpha"))
            yield torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(alpha))


def loader(
    run: Run, composer: Composer, sizes: tuple[int, ...], first: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        Batches(composer, run.batch, sizes, first),
        batch_size=None,
        num_workers=int(run.aside),
        prefetch_factor=4 if run.aside else None,
        # A forked process shares the library; a spawned one would copy it.
        multiprocessing_context="fork" if run.aside else None,
        worker_init_fn=lambda _worker: cv2.setNumThreads(0),
    )


def write_log(trainer: Trainer, losses: list[float], seconds: float) -> None:
    run, progress = trainer.run, trainer.progress
    minutes = progress.seconds / 60
    shutil.copyfile(trainer.weights, run.out / f"weights-{minutes:05.1f}.safetensors")
    line = {"step": progress.step, "samples": progress.samples, "minutes": round(minutes, 2)}
    line |= {"loss": round(sum(losses) / len(losses), 4)}
    line |= {"images_per_second": round(len(losses) * run.batch / seconds, 1)}
    with (run.out / "log.jsonl").open("a") as file:
        print(json.dumps(line), file=file)


def parser() -> argparse.ArgumentParser:
    """Return a parser with an option for each field of Run."""
    raw = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    for field in fields(Run):
        name, usual = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(usual, bool):
            options.add_argument(name, action=argparse.BooleanOptionalAction, default=usual)
        elif isinstance(usual, tuple):
            options.add_argument(name, type=int, nargs="+", default=usual)
        else:
            kind = Path if usual is MISSING else type(usual)
            options.add_argument(name, type=kind, required=usual is MISSING, default=usual)
    return options


def main() -> None:
    run = Run(**vars(parser().parse_args()))
    if math.isinf(run.minutes) and math.isinf(run.samples):
        parser().error("length of the run missing: pass --minutes or --samples")
    train(run, features=checkpoint())


if __name__ == "__main__":
    main()
