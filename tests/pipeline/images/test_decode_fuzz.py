"""Damaged files give our errors or a picture, never another exception, and never much memory."""

from __future__ import annotations

import random
import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.errors import PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.limits import Limits

if __name__ == "__main__":
    from files import SRGB, dng, mosaic, png_of_16_bits, saved, scene
else:
    from .files import SRGB, dng, mosaic, png_of_16_bits, saved, scene

LIMITS = Limits(max_pixels=1_000_000, max_side=4_000, max_bytes=1_000_000, max_frames=100)
HEADER = 600
"""Bytes at a file's start that are damaged the most."""
MEMORY = 1_500_000
"""KiB that a process may take which reads 10,000 damaged files."""


def photo():
    """A new one: saving an image may leave traces on it."""
    return Image.fromarray(scene(24, 32))


def frames():
    return {"save_all": True, "append_images": [photo().rotate(180)]}


def seeds():
    rgba = Image.fromarray(np.dstack([scene(24, 32), scene(24, 32)[..., 0]]))
    yield saved(photo(), "JPEG", icc_profile=SRGB, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    yield saved(photo().convert("CMYK"), "JPEG", progressive=True)
    yield saved(photo(), "MPO", **frames())
    yield saved(rgba, "PNG", icc_profile=SRGB, dpi=(72, 72))
    yield saved(photo().convert("P"), "PNG", transparency=3)
    yield png_of_16_bits(np.full((5, 6, 3), 700, np.uint16), key=(700, 700, 700))
    yield saved(photo(), "PNG", **frames())
    yield saved(rgba, "WEBP")
    yield saved(photo(), "WEBP", lossless=True, **frames())
    for compression in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate"):
        yield saved(photo(), "TIFF", compression=compression)
    yield saved(Image.new("F", (9, 9), 0.5), "TIFF", **frames())
    yield saved(photo().convert("1"), "TIFF", compression="group4")
    yield saved(photo(), "BMP")
    yield saved(photo().convert("P"), "BMP")
    yield saved(photo(), "GIF", **frames())
    yield saved(rgba, "AVIF")
    sensor = mosaic(scene(24, 32).astype(np.uint16) * 257)
    for make in (b"NIKON", b"SONY", b"Canon"):
        yield dng(sensor, make=make, orientation=6)
        yield dng(sensor, make=make, order=">", changes={50706: None})


def damaged(data, chance):
    """The file with some bytes changed, most of them near its start, cut or doubled."""
    mutant = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        near = min(len(mutant), chance.choice((40, HEADER, len(mutant))))
        mutant[chance.randrange(near)] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    match chance.randrange(8):
        case 0:
            del mutant[chance.randrange(4, len(mutant)) :]
        case 1:
            at = chance.randrange(len(mutant))
            mutant[at:at] = mutant[at : at + chance.randrange(1, 64)]
    return bytes(mutant)


def read(count, seed):
    """Decode `count` damaged files, and return how many were pictures nevertheless."""
    chance = random.Random(seed)
    files = list(seeds())
    pictures = 0
    for i in range(count):
        try:
            picture = decode(
                damaged(files[i % len(files)], chance), LIMITS, keep_16_bits=i % 2 == 0
            )
        except PermanentError:
            continue
        height, width, channels = picture.rgb.shape
        assert channels == 3
        assert 0 < height * width <= LIMITS.max_pixels
        assert picture.alpha is None or picture.alpha.shape == (height, width)
        pictures += 1
    return pictures


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_in_bounded_memory(count):
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(count)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    pictures, memory = (int(word) for word in done.stdout.split())
    assert 0 < pictures < count
    assert memory < MEMORY


if __name__ == "__main__":
    pictures = read(int(sys.argv[1]), seed=2)
    print(pictures, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
