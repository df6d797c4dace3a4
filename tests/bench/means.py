"""Soft edges coloured with the device's mean colours, and with those that a lane makes itself.

    OMP_NUM_THREADS=1 python tests/bench/means.py

Made scenes of known colours: a disc on a ground, its edge a Gaussian. Error of the composite over the
soft pixels, in levels of 255, with the true alpha; milliseconds of CPU from matte to cutout, where the
device's own work is left out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import torch

from bgpipe.pipeline.inference.mean_colors import mean_colours
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.matting.foreground import estimate_foreground
from bgpipe.pipeline.matting.resample import resize
from bgpipe.pipeline.networks.preprocess import preprocess
from bgpipe.pipeline.types import DecodedImage, Matte, Preset

sys.path.append(str(Path(__file__).parents[1] / "pipeline" / "matting"))
from test_foreground import composite_error, mixture, soft

SIDE = 1024
SIZES = [(420, 560), (1260, 1680), (2520, 3360)]
SIGMAS = (1.0, 2.5, 5.0)


def main() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print("| picture | sigma | error, lane / device | ms, lane / device |\n|---|---|---|---|")
    for size in SIZES:
        for sigma in SIGMAS:
            foreground, alpha, seen = mixture(size, sigma)
            matte = resize(alpha, SIDE, SIDE)
            pixels = torch.from_numpy(preprocess(seen, (SIDE, SIDE)))[None]
            means = mean_colours(pixels, torch.from_numpy(matte)[None])[0].numpy()
            where, errors, times = soft(alpha), [], []
            for given in (None, means):
                colours = estimate_foreground(seen, alpha, where, given)
                errors.append(composite_error(colours, foreground, alpha, where))
                start = time.process_time()
                cut_out(DecodedImage(seen), Matte(matte, given), Preset())
                times.append(1000 * (time.process_time() - start))
            figures = (
                " / ".join(f"{x:.2f}" for x in errors),
                " / ".join(f"{x:.0f}" for x in times),
            )
            print(f"| {size[1]} x {size[0]} | {sigma} | {figures[0]} | {figures[1]} |", flush=True)


if __name__ == "__main__":
    main()
