"""What cuts photos out without learning: GrabCut (Rother, Kolmogorov and Blake 2004) from a
rectangle a little inside the photo. Scores as evaluate.py gives them.

    python infra/training/baseline.py --photos DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from camera import Floats
from evaluate import evaluate, table
from library import Pixels

SIDE = 192  # pixels of the square that it sees: it takes long over more
INSET = 8  # pixels of every edge, taken for background; 4 and 19 gave less
ROUNDS = 5


def grab_cut(rgb: Pixels) -> Floats:
    """The mask [H,W], 0 or 1, of a photo [H,W,3]."""
    small = cv2.cvtColor(
        cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR
    )
    inside = (INSET, INSET, SIDE - 2 * INSET, SIDE - 2 * INSET)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(small, labels, inside, models[0], models[1], ROUNDS, cv2.GC_INIT_WITH_RECT)
    mask = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    return np.asarray(
        cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, required=True)
    print(table(evaluate(grab_cut, parser.parse_args().photos)))


if __name__ == "__main__":
    main()
