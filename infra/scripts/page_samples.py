"""Make the sample photos of the web page and their cutouts by the bundled model.

infra/scripts/quickstart
python infra/scripts/page_samples.py .venv/sample-photos .venv/sample-photos-cutouts
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageOps

STATIC = Path(__file__).resolve().parents[2] / "pipeline/http/static"
PHOTOS = {"astronaut": "astronaut.png", "cat": "chelsea.png", "coffee": "coffee.png"}
LARGE, SMALL = (400, 267), (204, 153)
"""Pixels: of a sample, and of the tile with half of the photo and half of the cutout."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("photos", "cutouts"):
        options.add_argument(name, type=Path)
    chosen = options.parse_args()
    for name, file in PHOTOS.items():
        photo = Image.open(chosen.photos / file).convert("RGBA")
        cutout = Image.open(chosen.cutouts / file)
        save(photo.convert("RGB"), LARGE, f"sample-{name}.webp")
        save(cutout, LARGE, f"sample-{name}-cutout.webp")
        half = cutout.copy()
        half.paste(photo.crop((0, 0, photo.width // 2, photo.height)))
        save(half, SMALL, f"sample-{name}-half.webp")


def save(image: Image.Image, size: tuple[int, int], name: str) -> None:
    fitted = ImageOps.fit(image, size, Image.Resampling.LANCZOS, centering=(0.5, 0))
    fitted.save(STATIC / name, quality=60 if size == LARGE else 28, alpha_quality=40, method=6)


if __name__ == "__main__":
    main()
