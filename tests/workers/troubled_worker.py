"""A real worker process for files that mean trouble, by what they hold.

`stuck` never ends to be decoded, `lost` loses the device, `stalled` stalls it for ever, `deadly`
kills the process. Anything else becomes a cutout whose bytes are those of the file. No model loads
while TEST_LOAD_ERROR is set, which is a RuntimeError's text. A worker pinned to a GPU is lost once
the driver does not list it. With --supervised it is the real supervisor of such a worker, with --gpus
of one for each GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.errors import Code, DeviceLost
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.images.provenance import xmp_packet
from bgpipe.pipeline.inference.devices import WorkerDevice, list_gpus, select_devices
from bgpipe.pipeline.types import Cutout, DecodedImage, Matte, Output
from bgpipe.workers.image_processor import ImageCodec
from bgpipe.workers.lifecycle import exit_now, run_entry_point, worker_settings
from bgpipe.workers.process import initial_stats, work
from bgpipe.workers.supervisor import DeviceWorker, Supervisor, make_workers

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

LOST, STALLED, DEADLY = 255, 254, 253
DEVICE_TROUBLE = {b"lost": LOST, b"stalled": STALLED, b"deadly": DEADLY}
FOR_EVER = 3600


class Engine:
    memory = 0
    passes_in_flight = 1

    def __init__(self) -> None:
        if error := os.environ.get("TEST_LOAD_ERROR"):
            raise RuntimeError(error)

    def launch(self, images: Sequence[Pixels]) -> Callable[[], list[Matte]]:
        check_gpu()
        values = {int(image[0, 0, 0]) for image in images}
        if LOST in values:
            raise DeviceLost(Code.DEVICE, "an illegal address, say")
        if STALLED in values:
            time.sleep(FOR_EVER)
        if DEADLY in values:
            os.kill(os.getpid(), signal.SIGKILL)
        return lambda: [Matte(np.ones(image.shape[:2], np.float32)) for image in images]


class Codec(ImageCodec):
    @staticmethod
    def measure(data: bytes, limits: Limits) -> int:
        del data, limits
        return 64

    @staticmethod
    def decode(data: bytes, limits: Limits, keep_16_bits: bool = False) -> DecodedImage:
        del limits, keep_16_bits
        if data == b"stuck":
            time.sleep(FOR_EVER)
        time.sleep(float(os.environ.get("TEST_DECODE_SECONDS", "0")))
        return DecodedImage(rgb=np.full((8, 8, 3), DEVICE_TROUBLE.get(data, 0), np.uint8), icc=None)

    @staticmethod
    def encode(
        cutout: Cutout, picture: DecodedImage, output: Output, text: Mapping[str, str]
    ) -> bytes:
        del cutout, picture, output
        # With provenance: a worker that died after writing it would take it for a foreign file.
        return f"a cutout of {text['bgpipe:source']}".encode() + xmp_packet(text)


class Troubled(DeviceWorker):
    """This file in the place of a worker's process."""

    def _spawn(self, restarts: int) -> subprocess.Popen[bytes]:
        options = ["--name", self.name, "--restarts", str(restarts), "--metrics", self.metrics]
        return subprocess.Popen(
            [sys.executable, __file__, *options],
            env=os.environ | self.device.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )


def check_gpu() -> None:
    """Raise DeviceLost if this process has a GPU that the driver does not list."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu and not [each for each in list_gpus() if not each.problem]:
        raise DeviceLost(Code.DEVICE, f"no such GPU: {gpu}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="troubled@test")
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--metrics", default="")
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument("--gpus", action="store_true")
    options = parser.parse_args()
    settings = worker_settings()
    if options.supervised:
        return Supervisor([Troubled(options.name, WorkerDevice("cpu"))], settings.worker).run()
    if options.gpus:
        gpus = select_devices([], cpu_allowed=False)
        made = make_workers(gpus, shared_host=False, metrics=settings.metrics.worker)
        workers = [Troubled(each.name, each.device, each.metrics) for each in made]
        return Supervisor(workers, settings.worker).run()
    check_gpu()
    stats = initial_stats("cpu", settings.worker, options.restarts)
    make_engine = lambda spec: Engine()  # noqa: E731
    return work(settings, options.name, stats, make_engine, Codec(), options.metrics)


if __name__ == "__main__":
    exit_now(run_entry_point(main))
