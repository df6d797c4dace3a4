"""A real worker process, engine, codecs and all, whose decoder pauses for TEST_PAUSE seconds first."""

from __future__ import annotations

import argparse
import os
import time

from bgpipe.pipeline.images import Limits, decode
from bgpipe.pipeline.types import Picture
from bgpipe.workers.devices import CPU
from bgpipe.workers.engines import engine_maker
from bgpipe.workers.entry import exit_code_of, worker_settings
from bgpipe.workers.leaving import end
from bgpipe.workers.process import Parts, node, work
from bgpipe.workers.studio import Codec


def decode_slowly(data: bytes, limits: Limits, deep: bool) -> Picture:
    time.sleep(float(os.environ["TEST_PAUSE"]))
    return decode(data, limits, deep)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    settings = worker_settings()
    this = node(parser.parse_args().name, CPU, settings.worker)
    make_engine = engine_maker(settings, this.device, this.batch)
    return work(settings, this, Parts(make_engine, Codec(decode=decode_slowly)))


if __name__ == "__main__":
    end(exit_code_of(main))
