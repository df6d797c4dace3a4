"""What bgpipe and rembg spend around the same network: `python tests/bench/beside_rembg.py PYTHON [--rounds N]`.

PYTHON has rembg installed (measured: 2.0.86). JPEG to PNG in memory, by rembg's `remove` with its session for
BiRefNet, plain and with its estimation of the foreground; both get the same matte from a stub in
place of the network, whose own time comes on top. CPU time of one thread, minimum of alternating rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZES = (1.0, 4.0, 12.0)
CHILD = "--child"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"

    import cv2
    import torch
    from images import Ours, photo, samples, soft_disc

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    matte = soft_disc()
    print("| ms of CPU | bgpipe | rembg | rembg, decontaminated |\n|---|---|---|---|")
    for size in SIZES:
        data, ours, times = photo(samples(), size), Ours(), []
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "photo.jpg").write_bytes(data)
            np.save(Path(folder) / "matte.npy", matte)
            for _ in range(given.rounds):
                start = time.process_time()
                ours.decode(data)
                ours.shrink()
                ours.cut(matte)
                ours.write(ours.cutout)
                command = [given.python, __file__, CHILD, folder]
                own = time.process_time() - start
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                times.append((own, *map(float, done.stdout.split())))
        least = [1e3 * min(column) for column in zip(*times[1:] or times, strict=True)]
        cells = (f"{each:.0f} ({each / least[0]:.1f}x)" for each in least[1:])
        print(f"| {size:g} MP | {least[0]:.0f} | " + " | ".join(cells) + " |", flush=True)


def child(folder: Path) -> None:
    """Print the seconds of `remove`, plain and decontaminated, in an environment that has rembg."""
    from rembg import remove
    from rembg.sessions.birefnet_general import BiRefNetSessionGeneral

    matte = np.clip(np.load(folder / "matte.npy"), 1e-4, 1 - 1e-4)
    logits = np.log(matte / (1 - matte))[None, None]

    class Network:
        @staticmethod
        def get_inputs() -> list[type[Network]]:
            return [Network]

        name = "image"

        @staticmethod
        def run(names: object, inputs: object) -> list[np.ndarray]:
            return [logits]

    session = BiRefNetSessionGeneral.__new__(BiRefNetSessionGeneral)
    session.inner_session = Network()
    data = (folder / "photo.jpg").read_bytes()
    for decontaminate in (False, True):
        seconds = []
        for _ in range(2):
            start = time.process_time()
            remove(data, session=session, decontaminate=decontaminate)
            seconds.append(time.process_time() - start)
        print(min(seconds))


if __name__ == "__main__":
    if sys.argv[1] == CHILD:
        child(Path(sys.argv[2]))
    else:
        main()
