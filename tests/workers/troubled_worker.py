"""A real worker process for files that mean trouble: `stuck` never decodes, `lost` kills the device."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bgpipe.pipeline.errors import Code, DeviceLost
from bgpipe.pipeline.images import Limits
from bgpipe.pipeline.types import Cutout, Matte, Picture
from bgpipe.workers.entry import exit_code_of, worker_settings
from bgpipe.workers.lane import Codec
from bgpipe.workers.process import Node, Parts, work

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

LOST = 255


class Engine:
    def infer(self, images: Sequence[Pixels]) -> list[Matte]:
        if any((image == LOST).any() for image in images):
            raise DeviceLost(Code.DEVICE, "an illegal address, say")
        return [Matte(np.zeros(image.shape[:2], np.float32)) for image in images]


def decode(data: bytes, limits: Limits) -> Picture:
    del limits
    if data == b"stuck":
        time.sleep(600)
    return Picture(rgb=np.full((8, 8, 3), LOST if data == b"lost" else 0, np.uint8))


def encode(cutout: Cutout, picture: Picture, text: Mapping[str, str]) -> bytes:
    del cutout, picture, text
    return b"a cutout"


def run() -> int:
    node = Node("troubled@test", "cpu", lanes=2, batch=1)
    return work(worker_settings(), node, Parts(lambda recipe: Engine(), Codec(decode, encode)))


if __name__ == "__main__":
    sys.exit(exit_code_of(run))
