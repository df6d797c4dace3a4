"""A real worker process, engine, codecs and all, whose decoder pauses for TEST_PAUSE seconds first."""

from __future__ import annotations

import argparse
import os
import time
from functools import partial

from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.inference.devices import CPU
from bgpipe.pipeline.inference.engine_cache import load_engine
from bgpipe.pipeline.types import DecodedImage
from bgpipe.workers.image_processor import ImageCodec
from bgpipe.workers.lifecycle import exit_now, run_entry_point, worker_settings
from bgpipe.workers.process import initial_stats, work


class PausingCodec(ImageCodec):
    @staticmethod
    def decode(data: bytes, limits: Limits, keep_16_bits: bool = False) -> DecodedImage:
        time.sleep(float(os.environ["TEST_PAUSE"]))
        return decode(data, limits, keep_16_bits)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    settings = worker_settings()
    stats = initial_stats(CPU, settings.worker)
    make_engine = partial(load_engine, settings, CPU, stats.batch)
    return work(settings, parser.parse_args().name, stats, make_engine, PausingCodec())


if __name__ == "__main__":
    exit_now(run_entry_point(main))
