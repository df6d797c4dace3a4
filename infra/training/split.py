"""Which photos of the data are held out of training, to choose weights by.

A photo is held out or not by its name alone, so that every run, also one with more data, holds out
the same ones. Photos of one subject, `name_01` and `name_02`, stay together.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

SHARE = 8  # one subject in so many is held out


def held_out(photo: Path) -> bool:
    """Whether `photo`, .../GROUP/NAME.webp or its mask, is kept from training."""
    subject = re.sub(r"(_\d+)?(_alpha)?$", "", photo.stem)
    return zlib.crc32(f"{photo.parent.name}/{subject}".encode()) % SHARE == 0
