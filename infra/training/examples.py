"""A sheet of photos, each with what the network cuts out of it below, on checks.

python infra/training/examples.py --weights FILE --out SHEET.webp PHOTO ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from camera import Floats
from evaluate import Predictor, predictor
from library import Pixels

COLUMNS = 5
CELL = 184  # pixels
GAP = 6
SQUARE = 8  # pixels of a check
QUALITY = 82


def sheet(predict: Predictor, photos: list[Pixels]) -> Pixels:
    """Photos uint8 [H,W,3] in rows of five, their cutouts below."""
    cells = [np.vstack([_framed(photo), _framed(_cut(photo, predict(photo)))]) for photo in photos]
    columns = min(COLUMNS, len(cells))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def _cut(photo: Pixels, matte: Floats) -> Pixels:
    y, x = np.indices(matte.shape) * CELL // (SQUARE * max(matte.shape))
    checks = np.where((y + x) % 2, np.uint8(205), np.uint8(250))[..., None]
    share = matte[..., None]
    return np.asarray(photo * share + checks * (1 - share), np.uint8)


def _framed(image: Pixels) -> Pixels:
    """Shrunk into a white square, with a gap around it."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    size = (round(width * scale), round(height * scale))
    cell = np.full((CELL + GAP, CELL + GAP, 3), 255, np.uint8)
    top, left = (CELL + GAP - size[1]) // 2, (CELL + GAP - size[0]) // 2
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cell[top : top + size[1], left : left + size[0]] = small
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("photos", type=Path, nargs="+")
    given = parser.parse_args()
    photos = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in given.photos]
    made = sheet(predictor(given.weights, 1), [np.asarray(photo, np.uint8) for photo in photos])
    quality = [cv2.IMWRITE_WEBP_QUALITY, QUALITY]
    cv2.imwrite(str(given.out), cv2.cvtColor(made, cv2.COLOR_RGB2BGR), quality)


if __name__ == "__main__":
    main()
