"""The README's picture: rows of photos, their cutouts below each.

bgpipe submit PHOTOS --model birefnet-nano
python infra/scripts/showcase.py PHOTOS PHOTOS-cutouts infra/docs/images/cutouts.webp
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT = 200
IN_A_ROW = 4
GAP = 8
SQUARE = 10
"""Pixels of the checkerboard, whose greys follow."""
GREYS = (255, 214)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("photos", "cutouts", "out"):
        options.add_argument(name, type=Path)
    chosen = options.parse_args()
    columns = [column(photo, chosen.cutouts) for photo in sorted(chosen.photos.iterdir())]
    rows = [beside(columns[i : i + IN_A_ROW]) for i in range(0, len(columns), IN_A_ROW)]
    below(rows).save(chosen.out, quality=85, method=6)
    return 0


def column(photo: Path, cutouts: Path) -> Image.Image:
    """The photo, and below it its cutout."""
    source = small(Image.open(photo).convert("RGB"))
    cutout = small(Image.open((cutouts / photo.name).with_suffix(".png")))
    found = Image.new("RGB", (source.width, 2 * HEIGHT + GAP), "white")
    found.paste(source, (0, 0))
    ground = checkerboard(cutout.size)
    ground.paste(cutout, (0, 0), cutout)
    found.paste(ground, (0, HEIGHT + GAP))
    return found


def small(image: Image.Image) -> Image.Image:
    return image.resize(
        (round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.LANCZOS
    )


def checkerboard(size: tuple[int, int]) -> Image.Image:
    width, height = size
    odd = (np.arange(height)[:, None] // SQUARE + np.arange(width) // SQUARE) % 2
    return Image.fromarray(np.choose(odd, GREYS).astype(np.uint8)).convert("RGB")


def beside(columns: list[Image.Image]) -> Image.Image:
    width = sum(each.width + GAP for each in columns) - GAP
    found, x = Image.new("RGB", (width, columns[0].height), "white"), 0
    for each in columns:
        found.paste(each, (x, 0))
        x += each.width + GAP
    return found


def below(rows: list[Image.Image]) -> Image.Image:
    height = rows[0].height + 2 * GAP
    width = max(row.width for row in rows)
    found = Image.new("RGB", (width, height * len(rows) - 2 * GAP), "white")
    for i, row in enumerate(rows):
        found.paste(row, ((width - row.width) // 2, i * height))
    return found


if __name__ == "__main__":
    sys.exit(main())
