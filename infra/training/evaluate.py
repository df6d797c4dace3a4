"""Score weights on photos with ground truth: IoU at 0.5 and mean absolute error, by group.

    python infra/training/evaluate.py --weights FILE --photos DIR [--held-out] [--size 288]

The truth of `x.jpg` is `x_alpha.png` beside it; the folder it lies in is its group. The matte
takes the way it takes in the pipeline: the photo stretched to the model's square with
antialiasing, the engine, the matte back to the photo's size without rounding in between.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import torch
from camera import Floats, in_unit
from library import Choice, Pixels, photos_below
from safetensors import safe_open
from split import held_out

from bgpipe.pipeline.engine import Engine
from bgpipe.pipeline.matting.resize import resized
from bgpipe.pipeline.model.resize import model_input
from bgpipe.pipeline.types import PatchOrder, ResolvedModel

Predictor = Callable[[Pixels], Floats]
ALL = "all"


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
        matte, truth = predict(photo.rgb), in_unit(photo.alpha)
        for group in (path.parent.relative_to(folder).as_posix(), ALL):
            by_group[group].append((iou(matte, truth), float(np.abs(matte - truth).mean())))
    if not by_group:
        raise ValueError(f"no photos with ground truth: {folder}; x.jpg needs x_alpha.png")
    return {
        group: Score(len(by_group[group]), *map(mean, zip(*by_group[group], strict=True)))
        for group in sorted(by_group, key=lambda group: (group == ALL, group))
    }


def iou(matte: Floats, truth: Floats) -> float:
    """Of the masks above 0.5; 1 where both are empty."""
    ours, theirs = matte > 0.5, truth > 0.5
    either = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / either if either else 1.0


def predictor(weights: Path, threads: int, size: int | None = None) -> Predictor:
    """The matte of a photo by the engine, at the size in the file's header or a square of `size`."""
    model = resolved(weights, size)
    engine = Engine(model, "cpu", batch=1, threads=threads)

    def predict(rgb: Pixels) -> Floats:
        matte = engine.infer([model_input(rgb, model.size)])[0].alpha
        return resized(matte, *rgb.shape[:2])

    return predict


def resolved(weights: Path, size: int | None = None) -> ResolvedModel:
    with safe_open(weights, framework="pt") as file:
        header = file.metadata()
    height, width = map(int, header["bgpipe.size"].split("x"))
    return ResolvedModel(
        name=header["bgpipe.config"],
        path=weights,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        size=(size, size) if size else (height, width),
        patch_order=PatchOrder(header["bgpipe.patch_order"]),
        bundled=False,
    )


def table(scores: dict[str, Score]) -> str:
    """The scores as a Markdown table."""
    rows = [f"| {name} | {s.images} | {s.iou:.3f} | {s.mae:.3f} |" for name, s in scores.items()]
    return "\n".join(["| group | images | IoU at 0.5 | MAE |", "|---|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--held-out", action="store_true", help="of training data, see split.py")
    parser.add_argument("--size", type=int, help="pixels, if not the file's own")
    given = parser.parse_args()
    cv2.setNumThreads(given.threads)
    chosen = held_out if given.held_out else lambda _path: True
    scores = evaluate(predictor(given.weights, given.threads, given.size), given.photos, chosen)
    print(table(scores))


if __name__ == "__main__":
    main()
