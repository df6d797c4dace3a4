"""Score weights on the held-out photos with ground truth: IoU at 0.5 and mean absolute error, by group.

    python infra/training/evaluate.py WEIGHTS PHOTOS [--close] [--size 288]

The truth of `x.jpg` is `x_alpha.png` beside it; its folder is its group. Mattes are computed as in the
pipeline, without rounding in between. --close crops each photo so that its subject fills it.
"""

from __future__ import annotations

import itertools
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from checkpoint import MODEL
from compose import Floats, close_up
from library import Layer, Pixels, held_out, photos_below
from safetensors import safe_open

from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.matting.resample import resize, to_unit
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.types import PatchOrder, ResolvedModel

Existing = Annotated[Path, typer.Argument(exists=True)]
Predictor = Callable[[Pixels], Floats]
ALL = "all"


class Score(NamedTuple):
    images: int
    iou: float
    mae: float


def evaluate(predict: Predictor, photos: Iterable[tuple[Path, Layer]]) -> dict[str, Score]:
    """Return mean scores of every group, the photos of a folder, and of all photos. `predict` maps uint8
    [H,W,3] into a matte [H,W] in [0,1]. Raises ValueError without photos.
    """
    by_group: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path, photo in photos:
        matte, truth = predict(photo.rgb), to_unit(photo.alpha)
        ours, theirs = matte > 0.5, truth > 0.5
        iou = (ours & theirs).sum() / (ours | theirs).sum() if (ours | theirs).any() else 1.0
        for group in (path.parent.name, ALL):
            by_group[group].append((float(iou), float(np.abs(matte - truth).mean())))
    if not by_group:
        raise ValueError("no photos with ground truth: x.jpg needs x_alpha.png")
    return {
        group: Score(len(by_group[group]), *map(mean, zip(*by_group[group], strict=True)))
        for group in sorted(by_group, key=lambda group: (group == ALL, group))
    }


def closer(path: Path, photo: Layer) -> tuple[Path, Layer]:
    """Return the close view of a photo, the same in every run."""
    return path, photo.part(close_up(photo, np.random.default_rng(zlib.crc32(path.name.encode()))))


def predictor(weights: Path, threads: int, size: int | None = None) -> Predictor:
    """Predict by the engine, at the size in the file's header or a square of `size`."""
    with safe_open(weights, framework="pt") as file:
        side = size or int(file.metadata()["bgpipe.size"].split("x")[0])
    model = ResolvedModel(MODEL, weights, "", (side, side), PatchOrder.CURRENT)
    engine = BiRefNetEngine(model, "cpu", batch=1, threads=threads)

    def predict(rgb: Pixels) -> Floats:
        matte = engine.infer([preprocess(rgb, model.size)])[0].alpha
        return resize(matte, *rgb.shape[:2])

    return predict


def main(weights: Existing, photos: Existing, close: bool = False, size: int | None = None) -> None:
    """Print the scores of WEIGHTS on the held-out photos below PHOTOS, by group."""
    shown = photos_below(photos, None, held_out)
    shown = itertools.starmap(closer, shown) if close else shown
    predict = predictor(weights, torch.get_num_threads(), size)
    print("| group | images | IoU at 0.5 | MAE |\n|---|---|---|---|")
    for name, (images, iou, mae) in evaluate(predict, shown).items():
        print(f"| {name} | {images} | {iou:.3f} | {mae:.3f} |")


if __name__ == "__main__":
    typer.run(main)
