"""A real worker process whose device, decoder and encoder only sleep.

They are handed in through `work`, the seam that the worker itself uses; pool, batcher, lanes, task,
ledger, queue and stores are the product's own. Settings come from the environment. With --count it
forks that many workers, in which only the device takes time; forks share the memory of imported modules.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.inference.devices import CPU
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Output
from bgpipe.workers.image_processor import ImageCodec
from bgpipe.workers.lifecycle import exit_now, run_entry_point, worker_settings
from bgpipe.workers.process import initial_stats, work

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

DECODE = 0.025
STEP = 0.012
ENCODE = 0.040
"""Seconds."""
SIDE = 32
IMPORTED = (
    "bgpipe.pipeline.networks.preprocess",
    "bgpipe.workers.consumer",
    "celery.app.trace",
    "celery.events",
    "kombu.transport.redis",
)
"""Modules that a worker imports late; imported before the fork, so that all share them."""


class SleepingEngine:
    """Takes `step` seconds for a batch, however full."""

    memory = 0
    passes_in_flight = 1

    def __init__(self, step: float) -> None:
        self._step = step

    def launch(self, images: Sequence[Pixels]) -> Callable[[], list[Matte]]:
        time.sleep(self._step)
        return lambda: [Matte(np.zeros(image.shape[:2], np.float32)) for image in images]


class SleepingCodec(ImageCodec):
    decode_seconds, encode_seconds = DECODE, ENCODE

    @staticmethod
    def measure(data: bytes, limits: Limits) -> int:
        del data, limits
        return SIDE * SIDE

    @classmethod
    def decode(cls, data: bytes, limits: Limits, keep_16_bits: bool = False) -> DecodedImage:
        del data, limits, keep_16_bits
        time.sleep(cls.decode_seconds)
        return DecodedImage(rgb=np.zeros((SIDE, SIDE, 3), np.uint8))

    @classmethod
    def encode(
        cls, cutout: Cutout, picture: DecodedImage, output: Output, text: Mapping[str, str]
    ) -> bytes:
        del cutout, picture, output, text
        time.sleep(cls.encode_seconds)
        return b"a cutout"


class InstantCodec(SleepingCodec):
    decode_seconds = encode_seconds = 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--step", type=float, default=STEP)
    given = parser.parse_args()
    name = fork(given.name, given.count) if given.count else given.name

    def run() -> int:
        settings = worker_settings()
        stats = initial_stats(CPU, settings.worker)
        engine = SleepingEngine(given.step)
        codec = InstantCodec() if given.count else SleepingCodec()
        return work(settings, name, stats, lambda spec: engine, codec)

    return run_entry_point(run)


def fork(name: str, count: int) -> str:
    """Return in `count` children of this process, with the name of each; the parent waits and exits."""
    for module in IMPORTED:
        import_module(module)
    gc.freeze()
    children = []
    for number in range(count):
        if not (child := os.fork()):
            return f"{name.partition('@')[0]}-{number}@bench"
        children.append(child)

    def stop(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)  # nothing of theirs is kept

    signal.signal(signal.SIGTERM, stop)
    for child in children:
        os.waitpid(child, 0)
    raise SystemExit(0)


if __name__ == "__main__":
    exit_now(main())
