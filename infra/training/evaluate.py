"""Score weights on photos with ground truth: IoU at 0.5 and mean absolute error, by group.

    python infra/training/evaluate.py --weights FILE --photos DIR [--held-out] [--gain 0 0] [--json]

The truth of `x.jpg` is `x_alpha.png` beside it; the folder it lies in is its group. The matte
takes the way it takes in the pipeline: the photo stretched to the model's square with
antialiasing, the engine, the matte back to the photo's size without rounding in between.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import torch
from camera import Floats, in_unit
from library import MASK, Choice, Pixels, mask_of, photos_below
from safetensors import safe_open
from split import held_out
from torch import nn

from bgpipe.pipeline.engine import Engine
from bgpipe.pipeline.matting.resize import resized
from bgpipe.pipeline.model.fuse import fuse
from bgpipe.pipeline.model.resize import model_input
from bgpipe.pipeline.model.weights import load
from bgpipe.pipeline.types import PatchOrder, ResolvedModel

Predictor = Callable[[Pixels], Floats]
ALL = "all"
MOST_VALIDATED = 24  # photos of a group


@dataclass(frozen=True)
class Score:
    images: int
    iou: float
    mae: float


def evaluate(
    predict: Predictor, folder: Path, chosen: Choice = lambda _path: True
) -> dict[str, Score]:
    """Mean scores of every group below `folder` and of all its chosen photos. `predict` turns uint8
    [H,W,3] into a matte [H,W] in [0,1]. Raises ValueError when there is nothing to score.
    """
    by_group: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path, photo in photos_below(folder, None, chosen):
        score = errors(predict(photo.rgb), in_unit(photo.alpha))
        by_group[path.parent.relative_to(folder).as_posix()].append(score)
        by_group[ALL].append(score)
    if not by_group:
        raise ValueError(f"no photos with ground truth: {folder}; x.jpg needs x_alpha.png")
    return {group: mean_of(by_group[group]) for group in sorted(by_group, key=_all_last)}


def balanced(scores: dict[str, Score]) -> Score:
    """The mean of the groups, whatever their sizes."""
    groups = [score for group, score in scores.items() if group != ALL]
    return Score(
        sum(score.images for score in groups),
        mean(score.iou for score in groups),
        mean(score.mae for score in groups),
    )


def validate(weights: Path, data: Path, threads: int) -> Score | None:
    """The balanced score of `weights` on photos of `data` that are held out, if any are; of a large
    group on a part, as training waits for it.
    """
    groups: dict[Path, list[Path]] = defaultdict(list)
    for path in sorted((data / "photos").rglob(f"*{MASK}.png")):
        if held_out(path):
            groups[path.parent].append(path)
    few = {path for group in groups.values() for path in group[:MOST_VALIDATED]}
    if not few:
        return None
    scores = evaluate(predictor(weights, threads), data / "photos", lambda x: mask_of(x) in few)
    return balanced(scores)


def errors(matte: Floats, truth: Floats) -> tuple[float, float]:
    """IoU at 0.5 and mean absolute error of a matte [H,W] in [0,1]."""
    return iou(matte, truth), float(np.abs(matte - truth).mean())


def iou(matte: Floats, truth: Floats) -> float:
    """Of the masks above 0.5; 1 where both are empty."""
    ours, theirs = matte > 0.5, truth > 0.5
    either = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / either if either else 1.0


def predictor(weights: Path, threads: int, gain: Sequence[float] | None = None) -> Predictor:
    """The matte of a photo by the engine, with the configuration and size in the file's header.
    `gain` takes the place of the one in the file, for what the colours say (evidence.py); ValueError
    where there is none.
    """
    model = resolved(weights)

    def loaded(model: ResolvedModel) -> nn.Module:
        network = load(model)
        if gain is not None and not network.config.evidence:
            raise ValueError(f"nothing is said by colours in these weights: {weights}")
        if gain is not None:
            network.evidence.gain.copy_(torch.tensor(gain))
        return fuse(network, model.size)

    engine = Engine(model, "cpu", batch=1, threads=threads, load=loaded)

    def predict(rgb: Pixels) -> Floats:
        matte = engine.infer([model_input(rgb, model.size)])[0].alpha
        return resized(matte, *rgb.shape[:2])

    return predict


def resolved(weights: Path) -> ResolvedModel:
    with safe_open(weights, framework="pt") as file:
        header = file.metadata()
    height, width = map(int, header["bgpipe.size"].split("x"))
    return ResolvedModel(
        name=header["bgpipe.config"],
        path=weights,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        size=(height, width),
        patch_order=PatchOrder(header["bgpipe.patch_order"]),
        bundled=False,
    )


def table(scores: dict[str, Score]) -> str:
    """The scores as a Markdown table."""
    rows = [
        f"| {group} | {score.images} | {score.iou:.3f} | {score.mae:.3f} |"
        for group, score in scores.items()
    ]
    return "\n".join(["| group | images | IoU at 0.5 | MAE |", "|---|---|---|---|", *rows])


def mean_of(scores: Iterable[tuple[float, float]]) -> Score:
    values = np.array(list(scores))
    return Score(len(values), *(float(x) for x in values.mean(axis=0)))


def _all_last(group: str) -> tuple[bool, str]:
    return group == ALL, group


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--held-out", action="store_true", help="of training data, see split.py")
    parser.add_argument(
        "--gain", type=float, nargs=2, help="of the colours: border, what was found"
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cv2.setNumThreads(given.threads)
    chosen = held_out if given.held_out else lambda _path: True
    scores = evaluate(predictor(given.weights, given.threads, given.gain), given.photos, chosen)
    if given.json:
        print(json.dumps({group: asdict(score) for group, score in scores.items()}))
    else:
        print(table(scores))


if __name__ == "__main__":
    main()
