"""Train a BiRefNet on samples composed on the fly.

    python infra/training/train.py --data DIR --out DIR --minutes 60 --size 128

A run is made of legs: parts with one size, batch and learning rate, each with its own warm-up and
cosine. `--resume` continues the leg it finds; with other settings it begins the next leg from the
same weights, and `--begin-from` begins a run from weights that were exported, such as the bundled
ones. The last checkpoint is OUT/checkpoint.safetensors, the averaged weights in the form that
ships are OUT/weights.safetensors, and of all checkpoints of a leg those that score best on photos
held out of training are OUT/best.safetensors. The losses and scores are OUT/log.jsonl.

Several GPUs, or the cores of a busy machine, share one run, each with its part of every batch:

    torchrun --nproc-per-node 2 infra/training/train.py ... --threads 1

The allocator of Linux gives large blocks back and asks for them again at every step, which costs
up to half the speed on a CPU. To keep them: MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import cv2
import torch
from checkpoint import Progress
from compose import Composer, Mix
from evaluate import Score, validate
from export import SIDE
from library import load_library
from ranks import Ranks, join
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from trainer import PRECISIONS, Leg, Run, Trainer

CACHED_SIDE = 384  # pixels of the longer side of a picture in memory, more where the size asks it


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
                score = trainer.save(partial(validate, data=run.data, threads=run.threads))
                write_log(run, trainer.progress, losses, now - saved, score)
            saved, losses, clock = now, [], time.monotonic()
        if over:
            break
    return trainer


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Endless: this process's share, every `ranks.count`th, of the samples from `first` on."""

    def __init__(self, composer: Composer, first: int, ranks: Ranks) -> None:
        self.composer, self.first, self.ranks = composer, first + ranks.rank, ranks

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.composer(self.first + index * self.ranks.count)
        return torch.from_numpy(sample.rgb), torch.from_numpy(sample.alpha)


def batches(run: Run, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one process, from sample `first` on; `run.workers` others compose them."""
    library = load_library(run.data, max(CACHED_SIDE, run.leg.size), run.without)
    composer = Composer(library, run.leg.size, run.seed, run.leg.mix)
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


def write_log(
    run: Run, progress: Progress, losses: list[float], seconds: float, score: Score | None
) -> None:
    line = {
        "step": progress.step,
        "samples": progress.samples,
        "minutes": round(progress.seconds / 60, 2),
        "size": run.leg.size,
        "loss": round(sum(losses) / len(losses), 4),
        "images_per_second": round(len(losses) * run.leg.batch / seconds, 1),
    }
    if score is not None:
        line |= {"held_out_iou": round(score.iou, 4), "held_out_mae": round(score.mae, 4)}
    text = json.dumps(line)
    print(text, flush=True)
    with (run.out / "log.jsonl").open("a") as file:
        file.write(text + "\n")


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = options.add_argument
    add("--data", type=Path, required=True, help="folder described in library.py")
    add("--without", nargs="+", default=(), metavar="PATTERN", help="of DATA, as photos/people/*")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--minutes", type=float, default=math.inf, help="length of this leg")
    add("--samples", type=float, default=math.inf, help="length of this leg, if that comes first")
    add("--size", type=int, default=SIDE, help="pixels, a multiple of 32")
    add("--batch", type=int, default=32)
    add("--rate", type=float, default=1e-3, help="highest learning rate")
    for share in fields(Mix):
        add(f"--{share.name}", type=float, default=share.default, help="share: Mix in compose.py")
    add("--model", default="birefnet_nano", help="a name in pipeline/model/config.py")
    add("--native", type=int, default=SIDE, help="pixels that the weights are for in the end")
    add("--seed", type=int, default=0)
    add("--average-decay", type=float, default=0.998, help="per step")
    add("--precision", choices=PRECISIONS, default=_usual_precision())
    add("--deform", action="store_true", help="learn the deformable offsets too")
    add("--workers", type=int, default=1, help="processes that compose samples")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--checkpoint-minutes", type=float, default=3.0)
    add("--stop-after", type=float, default=math.inf, help="minutes; then go on with --resume")
    add("--resume", action="store_true")
    add("--begin-from", type=Path, help="exported weights that a new run begins from")
    return options


def main() -> None:
    given = parser().parse_args()
    if math.isinf(given.minutes) and math.isinf(given.samples):
        parser().error("how long is this leg? give --minutes or --samples")
    torch.set_num_threads(given.threads)
    mix = Mix(given.photos, given.regrounded, given.made)
    leg = Leg(given.size, given.batch, given.rate, mix, given.minutes, given.samples)
    run = Run(
        data=given.data,
        out=given.out,
        leg=leg,
        without=tuple(given.without),
        model=given.model,
        native=given.native,
        seed=given.seed,
        average_decay=given.average_decay,
        precision=given.precision,
        plain=not given.deform,
        workers=given.workers,
        threads=given.threads,
        checkpoint_minutes=given.checkpoint_minutes,
        stop_after=given.stop_after,
        resume=given.resume,
        start=given.begin_from,
        ranks=join(),
    )
    train(run)


def _usual_precision() -> str:
    return "bfloat16" if torch.cuda.is_available() else "float32"


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)


if __name__ == "__main__":
    main()
