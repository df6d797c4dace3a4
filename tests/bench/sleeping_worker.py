"""A real worker process whose device, decoder and encoder only sleep.

They are handed in through `work`, the seam that the worker itself uses; pool, batcher, lanes, task,
ledger, queue and stores are the product's own. Settings come from the environment.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
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


class SleepingEngine:
    """Takes `STEP` for a batch, however full."""

    memory = 0
    passes_in_flight = 1

    def launch(self, images: Sequence[Pixels]) -> Callable[[], list[Matte]]:
        time.sleep(STEP)
        return lambda: [Matte(np.zeros(image.shape[:2], np.float32)) for image in images]


class SleepingCodec(ImageCodec):
    @staticmethod
    def measure(data: bytes, limits: Limits) -> int:
        del data, limits
        return SIDE * SIDE

    @staticmethod
    def decode(data: bytes, limits: Limits, keep_16_bits: bool = False) -> DecodedImage:
        del data, limits, keep_16_bits
        time.sleep(DECODE)
        return DecodedImage(rgb=np.zeros((SIDE, SIDE, 3), np.uint8))

    @staticmethod
    def encode(
        cutout: Cutout, picture: DecodedImage, output: Output, text: Mapping[str, str]
    ) -> bytes:
        del cutout, picture, output, text
        time.sleep(ENCODE)
        return b"a cutout"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    name: str = parser.parse_args().name

    def run() -> int:
        settings = worker_settings()
        stats = initial_stats(CPU, settings.worker)
        return work(settings, name, stats, lambda spec: SleepingEngine(), SleepingCodec())

    return run_entry_point(run)


if __name__ == "__main__":
    exit_now(main())
