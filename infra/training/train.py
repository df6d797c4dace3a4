"""Train the bundled model on samples composed on the fly.

    python infra/training/train.py --data DIR --out DIR --minutes 75 --sizes 192 224 256 --last-sizes 288 320

The last checkpoint is OUT/checkpoint.safetensors (`--resume` goes on from it), the averaged weights in
the form that ships are OUT/weights.safetensors, and OUT/weights-MINUTES.safetensors those of each
checkpoint. Losses and speeds are OUT/log.jsonl.

The allocator of Linux gives large blocks back and asks for them again at every step, which costs
up to half the speed on a CPU. To keep them: MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
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

CACHED_SIDE = 384  # pixels of the longer side of a picture in memory


def train(run: Run) -> Trainer:
    """Train until the run, or this process's share of it, is over."""
    trainer = Trainer(run)
    composer = Composer(load_library(run.data, CACHED_SIDE), run.seed)
    started = saved = trainer.progress.seconds
    losses: list[float] = []
    over = trainer.done >= 1
    while not over:
        sizes, clock = trainer.sizes, time.monotonic()
        for images, alphas in loader(run, composer, sizes, trainer.progress.step):
            losses.append(trainer.step(images, alphas))
            before, clock = clock, time.monotonic()
            trainer.progress.seconds += clock - before
            now = trainer.progress.seconds
            over = trainer.done >= 1 or now - started >= 60 * run.stop_after
            if over or now - saved >= 60 * run.checkpoint_minutes:
                trainer.save()
                write_log(trainer, losses, now - saved)
                saved, losses, clock = now, [], time.monotonic()
            if over or trainer.sizes != sizes:
                break
    return trainer


@dataclass(frozen=True)
class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless: the batches from `first` on, each of one of the sizes."""

    composer: Composer
    batch: int
    sizes: tuple[int, ...]
    first: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        step = self.first
        while True:
            size = self.sizes[np.random.default_rng((step, 1)).integers(len(self.sizes))]
            numbers = range(step * self.batch, (step + 1) * self.batch)
            samples = [self.composer(number, size) for number in numbers]
            rgb, alpha = ([getattr(s, part) for s in samples] for part in ("rgb", "alpha"))
            yield torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(alpha))
            step += 1


def loader(
    run: Run, composer: Composer, sizes: tuple[int, ...], first: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        Batches(composer, run.batch, sizes, first),
        batch_size=None,
        num_workers=int(run.aside),
        prefetch_factor=4 if run.aside else None,
        # A forked process shares the library; sent to a fresh one it would be copied.
        multiprocessing_context="fork" if run.aside else None,
        worker_init_fn=lambda _worker: cv2.setNumThreads(0),
    )


def write_log(trainer: Trainer, losses: list[float], seconds: float) -> None:
    run, progress = trainer.run, trainer.progress
    minutes = progress.seconds / 60
    shutil.copyfile(trainer.weights, run.out / f"weights-{minutes:05.1f}.safetensors")
    line = {
        "step": progress.step,
        "samples": progress.samples,
        "minutes": round(minutes, 2),
        "loss": round(sum(losses) / len(losses), 4),
        "images_per_second": round(len(losses) * run.batch / seconds, 1),
    }
    with (run.out / "log.jsonl").open("a") as file:
        print(json.dumps(line), file=file)


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = options.add_argument
    add("--data", type=Path, required=True, help="folder described in library.py")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--minutes", type=float, default=math.inf, help="length of the run")
    add("--samples", type=float, default=math.inf, help="length of the run, if that comes first")
    add("--sizes", type=int, nargs="+", default=Run.sizes, help="pixels, multiples of 32")
    add("--last-sizes", type=int, nargs="+", default=Run.last_sizes, help="of the last part")
    add("--last", type=float, default=Run.last, help="share of the run that this part is")
    add("--batch", type=int, default=Run.batch)
    add("--rate", type=float, default=Run.rate, help="highest learning rate")
    add("--native", type=int, default=Run.native, help="pixels that the weights are for in the end")
    add("--seed", type=int, default=Run.seed)
    add("--threads", type=int, default=Run.threads, help="that share each batch")
    add("--checkpoint-minutes", type=float, default=Run.checkpoint_minutes)
    add("--stop-after", type=float, default=math.inf, help="minutes; then go on with --resume")
    add("--resume", action="store_true")
    add("--begin-from", type=Path, dest="start", help="exported weights that a run begins from")
    return options


def main() -> None:
    given = vars(parser().parse_args())
    if math.isinf(given["minutes"]) and math.isinf(given["samples"]):
        parser().error("how long is this run? give --minutes or --samples")
    sizes = {name: tuple(given.pop(name)) for name in ("sizes", "last_sizes")}
    train(Run(**given, **sizes, features=checkpoint()))


if __name__ == "__main__":
    main()
