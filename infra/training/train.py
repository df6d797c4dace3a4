"""Train the bundled model on samples composed on the fly.

    python infra/training/train.py --data DIR --out DIR --samples 40000 --sizes 192,224,256 --last-sizes 288,320

OUT/checkpoint.safetensors is the last checkpoint (`--resume` continues from it), OUT/weights.safetensors
the averaged weights as they ship, OUT/weights-SAMPLES.safetensors those of each checkpoint, and
OUT/log.jsonl has losses and speeds. All options: Run in trainer.py.

glibc returns large blocks to the system at every step, which costs up to half the speed on a CPU; set
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 to keep them.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import torch
from compose import Composer
from library import load_library
from pretrained import checkpoint
from pydantic_settings import CliApp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from trainer import Run, Trainer

CACHED_SIDE = 384  # pixels of the longer side of an image in memory


def train(run: Run, features: Path | None = None) -> Trainer:
    """Train to the end of the run, the backbone initialised from `features` if given."""
    trainer = Trainer(run, features)
    composer = Composer(load_library(run.data, CACHED_SIDE), run.seed)
    losses: list[float] = []
    saved = time.monotonic()
    for images, alphas in load(run, composer, trainer.steps):
        losses.append(trainer.step(images, alphas))
        seconds = time.monotonic() - saved
        if trainer.steps == run.steps or seconds >= 60 * run.checkpoint_minutes:
            trainer.save()
            write_log(trainer, losses, seconds)
            saved, losses = time.monotonic(), []
    return trainer


@dataclass(frozen=True)
class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batches by step, each at a size drawn from those of its part of the run."""

    run: Run
    composer: Composer

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        sizes = self.run.sizes_after(step)
        size = sizes[np.random.default_rng((step, 1)).integers(len(sizes))]
        numbers = range(step * self.run.batch, (step + 1) * self.run.batch)
        samples = [self.composer(number, size) for number in numbers]
        rgb, alpha = ([getattr(s, part) for s in samples] for part in ("rgb", "alpha"))
        return torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(alpha))


def load(run: Run, composer: Composer, first: int) -> DataLoader[tuple[Tensor, Tensor]]:
    return DataLoader(
        Batches(run, composer),
        batch_size=None,
        sampler=range(first, run.steps),
        num_workers=1,
        prefetch_factor=4,
        # A forked process shares the library; a spawned one would copy it.
        multiprocessing_context="fork",
        worker_init_fn=lambda _worker: cv2.setNumThreads(0),
    )


def write_log(trainer: Trainer, losses: list[float], seconds: float) -> None:
    run, samples = trainer.run, trainer.steps * trainer.run.batch
    speed = round(len(losses) * run.batch / seconds, 1)
    line = {"samples": samples, "loss": round(mean(losses), 4), "images_per_second": speed}
    shutil.copyfile(trainer.weights, run.out / f"weights-{samples:06}.safetensors")
    with (run.out / "log.jsonl").open("a") as file:
        print(json.dumps(line), file=file)


if __name__ == "__main__":
    train(CliApp.run(Run), features=checkpoint())
