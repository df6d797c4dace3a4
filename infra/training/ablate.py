"""What each part of the data brings: short equal runs from one seed, each without one part.

    python infra/training/ablate.py --data DIR --photos DIR --out DIR --samples 8000 --size 96

DATA is what train.py takes, PHOTOS what evaluate.py takes. A run that is done is not done again.
The table is written to OUT/table.md. `torchrun` shares each run among GPUs or cores, as for train.py.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import torch
from compose import Mix
from evaluate import ALL, Score, evaluate, predictor, validate
from ranks import join
from train import train
from trainer import Leg, Run

COLUMNS = ("ecssd", "human290", ALL)  # groups of PHOTOS


@dataclass(frozen=True)
class Variant:
    name: str
    mix: Mix = field(default_factory=Mix)
    without: tuple[str, ...] = ()  # of the data: patterns, see library.py


VARIANTS = (
    Variant("all of it"),
    Variant("without photos as samples, only as material", Mix(photos=0)),
    Variant("without photos before another ground", Mix(regrounded=0)),
    Variant("without made subjects", Mix(made=0)),
    Variant("without cut-outs", without=("foreground/*",)),
    Variant("without photos at all", without=("photos/*",)),
)


def weights_of(variant: Variant, base: Run) -> Path:
    """Train as `base` says but for the variant's data; returns the weights."""
    out = base.out / variant.name.replace(" ", "-").replace(",", "")
    weights = out / "weights.safetensors"
    if not weights.exists():
        leg = Leg(
            base.leg.size, base.leg.batch, base.leg.rate, variant.mix, samples=base.leg.samples
        )
        train(
            Run(
                data=base.data,
                out=out,
                leg=leg,
                without=variant.without,
                native=base.leg.size,
                average_decay=0.98,
                precision=base.precision,
                workers=base.workers,
                checkpoint_minutes=float("inf"),
                ranks=base.ranks,
            )
        )
    return weights


def row(variant: Variant, weights: Path, data: Path, photos: Path) -> str:
    scores = evaluate(predictor(weights, 1), photos)
    cells = [_cell(scores[group]) for group in COLUMNS if group in scores]
    return " | ".join([f"| {variant.name}", _cell(validate(weights, data, 1)), *cells]) + " |"


def _cell(score: Score | None) -> str:
    return f"{score.iou:.3f} / {score.mae:.3f}" if score else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--photos", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--samples", type=int, default=8000, help="of each run")
    add("--size", type=int, default=96)
    add("--precision", default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    leg = Leg(given.size, batch=32, rate=1e-3, samples=given.samples)
    ranks = join()
    base = Run(data=given.data, out=given.out, leg=leg, precision=given.precision, ranks=ranks)
    rows = [f"| data | held out | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for variant in VARIANTS:
        weights = weights_of(variant, base)
        if ranks.leads:
            rows.append(row(variant, weights, given.data, given.photos))
            print(rows[-1], flush=True)
    if ranks.leads:
        (given.out / "table.md").write_text("\n".join([*rows, ""]))


if __name__ == "__main__":
    main()
