"""What an image costs with its network, stage by stage, JPEG to PNG.

    python tests/bench/network.py [--model NAME] [--threads N] [--rounds N] [MEGAPIXELS]

The photo is that of images.py. CPU time and time by the clock, the median of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
from images import LIMITS, photo, samples

from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.models.registry import resolve
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.types import Output, Preset


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("megapixels", nargs="?", type=float, default=1.0)
    options.add_argument("--model", default="birefnet-nano")
    options.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "bgpipe")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=9)
    chosen = options.parse_args()
    cv2.setNumThreads(chosen.threads)
    model = resolve(chosen.model, cache=chosen.cache)
    engine = BiRefNetEngine(model, "cpu", batch=1, threads=chosen.threads)
    data = photo(samples(), chosen.megapixels)
    times: dict[str, list[tuple[float, float]]] = {}

    def timed(stage: str, step: Callable[[], object]) -> object:
        used, clock = time.process_time(), time.perf_counter()
        made = step()
        spent = (time.process_time() - used, time.perf_counter() - clock)
        times.setdefault(stage, []).append(spent)
        return made

    def whole() -> None:
        picture = timed("decode", lambda: decode(data, LIMITS))
        small = timed("model input", lambda: preprocess(picture.rgb, model.size))
        matte = timed("network", lambda: engine.infer([small])[0])
        cutout = timed("matte to cutout", lambda: cut_out(picture, matte, Preset()))
        timed("PNG", lambda: encode(cutout, picture, Output(), {}))

    whole()  # first calls fill caches
    times.clear()
    for _ in range(chosen.rounds):
        timed("all", whole)
    print(f"{'ms':16}{'CPU':>9}{'clock':>9}")
    for stage, spent in times.items():
        print(
            f"{stage:16}"
            + "".join(f"{1e3 * median(part):9.1f}" for part in zip(*spent, strict=True))
        )


if __name__ == "__main__":
    main()
