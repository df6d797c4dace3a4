"""What an image costs beside the network, stage by stage, against the plain way, on one thread.

    OMP_NUM_THREADS=1 python tests/bench/images.py [--rounds N] [--photo FILE] [MEGAPIXELS ...]

The plain way is Pillow's with its defaults, and the published blur fusion at full size. The photos
are those inside scikit-image, laid side by side at their own resolution until the size is reached:
enlarged photos would be too smooth. CPU time, the least of the rounds; both ways take turns.
"""

from __future__ import annotations

import argparse
import io
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.types import Cutout, Matte, Output, Preset

SIZES = (1.0, 4.0, 12.0, 24.0)
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
NETWORK = (1024, 1024)
LIMITS = Limits(160_000_000, 65_000, 2**29)
PRESET = Preset()
STAGES = ("decode", "model input", "matte to cutout", "PNG")
ROWS = (
    *(f"{stage}: ms of CPU, plain / bgpipe" for stage in STAGES),
    "all",
    "size of the PNG, bgpipe / plain",
    "opaque, soft",
    "levels between the model inputs, at most",
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("megapixels", nargs="*", type=float, default=SIZES)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--photo", type=Path, help="a photo that is repeated instead")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    tiles = [np.asarray(Image.open(chosen.photo).convert("RGB"))] if chosen.photo else samples()
    columns = [compare(photo(tiles, size), chosen.rounds) for size in chosen.megapixels]
    print("| | " + " | ".join(f"{size:g} MP" for size in chosen.megapixels) + " |")
    print("|---|" + "---|" * len(columns))
    for row in zip(ROWS, *columns, strict=True):
        print("| " + " | ".join(row) + " |")
    print("\nshare of its CPU time that another thread gets while a stage runs (1: no lock held)")
    overlap(photo(tiles, 4.0))


def samples() -> list[np.ndarray]:
    folder = files("skimage") / "data"
    return [
        np.asarray(Image.open(io.BytesIO((folder / name).read_bytes())).convert("RGB"))
        for name in PHOTOS
    ]


def photo(tiles: list[np.ndarray], megapixels: float) -> bytes:
    """A JPEG with sides as 4 to 3 of the tiles, cut where they end."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    canvas = np.zeros((height, width, 3), np.uint8)
    supply, top = cycle(tiles), 0
    while top < height:
        left, tallest = 0, 10**9
        while left < width:
            tile = next(supply)[: height - top, : width - left]
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            left, tallest = left + tile.shape[1], min(tallest, tile.shape[0])
        top += tallest
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "JPEG", quality=90)
    return file.getvalue()


def soft_disc() -> np.ndarray:
    """A matte at the network's size: a third opaque, about 4 % soft, wavy like an outline."""
    y, x = (np.mgrid[:1024, :1024].astype(np.float32) + 0.5) / 1024 - 0.5
    radius = np.hypot(x, y) + 0.012 * np.sin(9 * np.arctan2(y, x)) + 0.004 * np.sin(70 * x)
    return np.clip((0.335 - radius) / 0.018 + 0.5, 0, 1).astype(np.float32)


class Ours:
    def decode(self, data: bytes) -> None:
        self.picture = decode(data, LIMITS)

    def shrink(self) -> None:
        self.input = preprocess(self.picture.rgb, NETWORK)

    def cut(self, matte: np.ndarray) -> None:
        self.cutout = cut_out(self.picture, Matte(matte), PRESET)

    def write(self, cutout: Cutout) -> int:
        return len(encode(cutout, self.picture, Output(), {}))


class Plain:
    def decode(self, data: bytes) -> None:
        self.image = Image.open(io.BytesIO(data)).convert("RGB")
        self.rgb = np.asarray(self.image)

    def shrink(self) -> None:
        self.input = np.asarray(self.image.resize(NETWORK, Image.Resampling.BILINEAR))

    def cut(self, matte: np.ndarray) -> None:
        mask = Image.fromarray((matte * 255).astype(np.uint8)).resize(self.image.size)
        foreground = blur_fusion(self.rgb, np.asarray(mask))
        self.cutout = Image.fromarray(foreground)
        self.cutout.putalpha(mask)

    def write(self, cutout: Cutout) -> int:
        file = io.BytesIO()
        Image.fromarray(cutout.rgba).save(file, "PNG")
        return len(file.getvalue())


def blur_fusion(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Forte, Approximate Fast Foreground Colour Estimation, ICIP 2021: both passes at full size."""
    image, alpha = rgb / 255.0, (mask / 255.0)[..., None]
    foreground, background = image, image
    for side in (90, 6):
        share = cv2.blur(alpha, (side, side))[..., None]
        fore = cv2.blur(foreground * alpha, (side, side)) / (share + 1e-5)
        back = cv2.blur(background * (1 - alpha), (side, side)) / (1 - share + 1e-5)
        lacking = image - alpha * fore - (1 - alpha) * back
        foreground, background = np.clip(fore + alpha * lacking, 0, 1), back
    return (foreground * 255).astype(np.uint8)


def compare(data: bytes, rounds: int) -> list[str]:
    """Return a cell for each of `ROWS`."""
    matte = soft_disc()
    ours, plain = Ours(), Plain()
    times = {way: dict.fromkeys(STAGES, float("inf")) for way in ("ours", "plain")}
    sizes = {}
    for _ in range(rounds):
        for name, way in (("ours", ours), ("plain", plain)):
            steps = (
                lambda way=way: way.decode(data),
                lambda way=way: way.shrink(),
                lambda way=way: way.cut(matte),
                lambda name=name, way=way: sizes.update({name: way.write(ours.cutout)}),
            )
            for stage, step in zip(STAGES, steps, strict=True):
                times[name][stage] = min(times[name][stage], seconds(step))
    alpha = ours.cutout.rgba[..., 3]
    opaque, soft = (alpha == 255).mean(), ((alpha > 0) & (alpha < 255)).mean()
    steps_apart = np.abs(ours.input.astype(int) - plain.input).max()
    pairs = [(times["plain"][stage], times["ours"][stage]) for stage in STAGES]
    pairs.append((sum(times["plain"].values()), sum(times["ours"].values())))
    return [
        *(f"{1e3 * old:.1f} / {1e3 * new:.1f} ({old / new:.1f}x)" for old, new in pairs),
        f"{sizes['ours'] / sizes['plain']:.2f}",
        f"{opaque:.0%}, {soft:.1%}",
        f"{steps_apart}",
    ]


def seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def overlap(data: bytes) -> None:
    matte, ours = soft_disc(), Ours()
    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: ours.decode(data),
        "model input": ours.shrink,
        "matte to cutout": lambda: ours.cut(matte),
        "PNG": lambda: ours.write(ours.cutout),
        "(the lock held)": lambda: sum(range(5_000_000)),
    }
    for stage, step in steps.items():
        print(f"{stage:16}{share_of_another_thread(step):9.2f}")


def share_of_another_thread(step: Callable[[], object]) -> float:
    """CPU time that a thread of pure Python gets while `step` runs, by the time that `step` takes."""
    ended, got = threading.Event(), []

    def tick() -> None:
        start = time.thread_time()
        while not ended.is_set():
            sum(range(100))
        got.append(time.thread_time() - start)

    step()
    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.thread_time()
    for _ in range(5):
        step()
    used = time.thread_time() - start
    ended.set()
    ticker.join()
    return got[0] / used


if __name__ == "__main__":
    main()
