"""What three outputs of an image cost beside one, from file to files.

    OMP_NUM_THREADS=1 python tests/bench/outputs.py [--rounds N] [--model NAME] [MEGAPIXELS ...]

One output, three that differ in finish and format, and three of which one refines the matte by a preset of
its own take turns. CPU time of the process on one thread, without the kernel's, which depends on the load;
medians of the rounds.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from images import photo, samples, soft_disc  # beside this file

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.models import registry
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Matte, ModelTask, Output, Preset, Recipe, ResolvedModel
from bgpipe.workers.budget import Budget
from bgpipe.workers.image_processor import ImageCodec, ImageProcessor
from bgpipe.workers.watchdog import StageTimer

SETTINGS = load_settings()
BALANCED, PRODUCTS = (SETTINGS.presets[name] for name in ("balanced", "products"))


class Device:
    """The engine without a queue before it; its matte is a disc, 33 % opaque and 4 % soft."""

    def __init__(self, model: ResolvedModel) -> None:
        self._engine = BiRefNetEngine(model, "cpu", batch=1, threads=1)
        self._matte = Matte(soft_disc())

    def infer(self, _: Recipe, images: Sequence[np.ndarray]) -> list[Matte]:
        self._engine.infer(list(images))
        return [self._matte]


class TimedCodec(ImageCodec):
    seconds = 0.0
    """CPU seconds of encoding."""

    def encode(self, *arguments: object) -> bytes:
        start = user_seconds()
        data = encode(*arguments)
        self.seconds += user_seconds() - start
        return data


def user_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def recipe(model: ResolvedModel, preset: Preset, file_format: str) -> Recipe:
    return Recipe(model.name, model.sha256, model.size, preset, Output(file_format))


def kinds(model: ResolvedModel) -> dict[str, list[Recipe]]:
    web = {"size": "1600x1600", "background": "white"}
    one, mask = recipe(model, BALANCED, "png"), recipe(model, BALANCED, "mask")
    return {
        "one": [one],
        "three": [one, mask, recipe(model, replace(BALANCED, **web), "webp")],
        "three, one of them by another preset": [
            *(one, mask, recipe(model, replace(PRODUCTS, **web), "webp"))
        ],
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("megapixels", nargs="*", type=float, default=(1.0, 4.0, 12.0))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--model", default="birefnet-nano", help="a name, or a path")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model = registry.resolve(
        chosen.model, cache=SETTINGS.model_folder, hub=None, task=ModelTask.SUBJECT
    )
    codec, device = TimedCodec(), Device(model)
    stores, memory = StoreFactory(SETTINGS.s3), Budget(2**34)
    processor = ImageProcessor(device, stores, memory, SETTINGS, codec)
    for megapixels in chosen.megapixels:
        print(f"{megapixels:g} MP")
        data = photo(samples(), megapixels)
        compare(processor, codec, data, kinds(model), chosen.rounds)


def compare(
    processor: ImageProcessor,
    codec: TimedCodec,
    data: bytes,
    kinds: dict[str, list[Recipe]],
    rounds: int,
) -> None:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, recipes in kinds.items():
            codec.seconds, start = 0.0, user_seconds()
            processor.process(data, "", recipes, StageTimer(SETTINGS.limits.model_dump()))
            if number:  # the first round warms up
                times[name].append((user_seconds() - start, codec.seconds))
    medians = {name: np.median(values, axis=0) * 1e3 for name, values in times.items()}
    total, encoding = medians["one"]
    for name, (all_, encoded) in medians.items():
        ratio = (all_ - (encoded - encoding)) / total
        print(f"  {name}: {all_:.0f} ms, of which encoding {encoded:.0f}; rest {ratio:.2f} of one")


if __name__ == "__main__":
    main()
