"""Make the README's image: rows of photos with their cutouts below.

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
COLUMNS = 4
GAP = 8
SQUARE = 10
"""Side of the checkerboard's squares, in pixels."""
GREYS = (255, 214)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("photos", "cutouts", "out"):
        options.add_argument(name, type=Path)
    chosen = options.parse_args()
    columns = [make_column(photo, chosen.cutouts) for photo in sorted(chosen.photos.iterdir())]
    rows = [join_columns(columns[i : i + COLUMNS]) for i in range(0, len(columns), COLUMNS)]
    stack_rows(rows).save(chosen.out, quality=85, method=6)
    return 0


def make_column(photo: Path, cutouts: Path) -> Image.Image:
    """Stack a photo and its cutout."""
    source = resize(Image.open(photo).convert("RGB"))
    cutout = resize(Image.open((cutouts / photo.name).with_suffix(".png")))
    canvas = Image.new("RGB", (source.width, 2 * HEIGHT + GAP), "white")
    canvas.paste(source, (0, 0))
    background = make_checkerboard(cutout.size)
    background.paste(cutout, (0, 0), cutout)
    canvas.paste(background, (0, HEIGHT + GAP))
    return canvas


def resize(image: Image.Image) -> Image.Image:
    return image.resize(
        (round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.LANCZOS
    )


def make_checkerboard(size: tuple[int, int]) -> Image.Image:
    width, height = size
    odd = (np.arange(height)[:, None] // SQUARE + np.arange(width) // SQUARE) % 2
    return Image.fromarray(np.choose(odd, GREYS).astype(np.uint8)).convert("RGB")


def join_columns(columns: list[Image.Image]) -> Image.Image:
    width = sum(column.width + GAP for column in columns) - GAP
    canvas, x = Image.new("RGB", (width, columns[0].height), "white"), 0
    for column in columns:
        canvas.paste(column, (x, 0))
        x += column.width + GAP
    return canvas


def stack_rows(rows: list[Image.Image]) -> Image.Image:
    height = rows[0].height + 2 * GAP
    width = max(row.width for row in rows)
    canvas = Image.new("RGB", (width, height * len(rows) - 2 * GAP), "white")
    for i, row in enumerate(rows):
        canvas.paste(row, ((width - row.width) // 2, i * height))
    return canvas


if __name__ == "__main__":
    sys.exit(main())
