"""How much the colours should count where a network does not know what it is shown.

    python infra/training/gains.py --data DIR --unseen FILE people --unseen FILE clothing objects scenes

FILE are weights of a network that was trained `--without` the groups of DIR/photos named behind it. All
photos of these groups are scored, at the size in the file, with every pair of gains (evidence.py). Printed
are IoU at 0.5 / mean absolute error of every group, and their mean, whatever the groups' sizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import chain, product
from pathlib import Path

import cv2
import torch
from camera import Floats, in_unit
from evaluate import Score, errors, mean_of, resolved
from library import Pixels, photos_below
from trainer import as_input

from bgpipe.pipeline.matting.resize import resized
from bgpipe.pipeline.model.evidence import against_border, agreement, likenesses_of
from bgpipe.pipeline.model.fuse import fuse
from bgpipe.pipeline.model.resize import model_input
from bgpipe.pipeline.model.weights import load

Gains = tuple[float, float]  # of the border, of what was found
STEPS = (0.0, 0.5, 1.0, 1.5, 2.0)
GAINS: tuple[Gains, ...] = tuple(product(STEPS, STEPS))
Mattes = dict[Gains, Floats]


def mattes_by(weights: Path) -> Callable[[Pixels], Mattes]:
    """The mattes of a photo, as the network says it and with the colours counting more and more."""
    model = resolved(weights)
    network = fuse(load(model), model.size)
    network.evidence = None

    @torch.inference_mode()
    def mattes(rgb: Pixels) -> Mattes:
        image = as_input(torch.from_numpy(model_input(rgb, model.size))[None])
        alone, likenesses = network(image), likenesses_of(image)
        stands_out = against_border(likenesses, alone)
        found: Mattes = {}
        for border, agreeing in GAINS:
            logits = alone + border * stands_out
            logits = logits + agreeing * agreement(likenesses, logits)
            found[border, agreeing] = resized(logits[0, 0].sigmoid().numpy(), *rgb.shape[:2])
        return found

    return mattes


def scores_of(weights: Path, folder: Path) -> dict[Gains, Score]:
    """The mean scores of all photos below `folder`. Raises ValueError where there are none."""
    mattes = mattes_by(weights)
    scores: dict[Gains, list[tuple[float, float]]] = {gains: [] for gains in GAINS}
    for _, photo in photos_below(folder, None):
        truth = in_unit(photo.alpha)
        for gains, matte in mattes(photo.rgb).items():
            scores[gains].append(errors(matte, truth))
    if not scores[GAINS[0]]:
        raise ValueError(f"no photos with masks: {folder}")
    return {gains: mean_of(values) for gains, values in scores.items()}


def table(by_group: dict[str, dict[Gains, Score]]) -> str:
    rows = [
        f"| border | found | {' | '.join(by_group)} | mean |",
        "|---" * (len(by_group) + 3) + "|",
    ]
    for gains in GAINS:
        scores = [by_group[group][gains] for group in by_group]
        mean = mean_of((score.iou, score.mae) for score in scores)
        cells = [f"{score.iou:.3f} / {score.mae:.3f}" for score in scores]
        first, last = " | ".join(map(str, gains)), f"{mean.iou:.4f} / {mean.mae:.4f}"
        rows.append(f"| {first} | {' | '.join(cells)} | {last} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="what train.py takes")
    add("--unseen", nargs="+", action="append", required=True, metavar=("FILE", "GROUP"))
    add("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    if any(not groups for _, *groups in given.unseen):
        parser.error("name the groups that each FILE has not seen behind it")
    photos = given.data / "photos"
    for group in chain.from_iterable(groups for _, *groups in given.unseen):
        if not (photos / group).is_dir():  # said now, not after minutes of scoring the others
            parser.error(f"no such group: {photos / group}")
    torch.set_num_threads(given.threads)
    cv2.setNumThreads(given.threads)
    by_group = {
        group: scores_of(Path(weights), photos / group)
        for weights, *groups in given.unseen
        for group in groups
    }
    print(table(by_group))


if __name__ == "__main__":
    main()
