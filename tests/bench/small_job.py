"""How long a person waits for one photo: `python tests/bench/small_job.py [--rounds N]`.

Alternates `import torch`, `bgpipe submit` of one photo where no server runs, `bgpipe status` and
`bgpipe --help`, and prints the medians. Exit 1 where a bound is missed: submit takes at most a
second more than the import, status at most 2.5 times as long as the help.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

SUBMIT_MARGIN = 1.0
STATUS_RATIO = 2.5
BGPIPE = [sys.executable, "-m", "bgpipe.pipeline.cli"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        took = measure(Path(folder), rounds)
    medians = {name: median(seconds) for name, seconds in took.items()}
    for name, seconds in medians.items():
        spread = f"{min(took[name]):.2f} to {max(took[name]):.2f}"
        sys.stdout.write(f"{name:14} {seconds:6.2f} s   ({spread})\n")
    margin = medians["submit"] - medians["import torch"]
    ratio = medians["status"] / medians["--help"]
    sys.stdout.write(f"submit: import torch + {margin:.2f} s; status: {ratio:.2f} times --help\n")
    return int(margin > SUBMIT_MARGIN or ratio > STATUS_RATIO)


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each command in each round, after one that fills the disk's cache."""
    took: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, command in commands(folder, number).items():
            seconds = timed(command, folder)
            if number:
                took.setdefault(name, []).append(seconds)
    until_free(folder)  # before the folder is removed
    return took


def commands(folder: Path, number: int) -> dict[str, list[str]]:
    out = folder / f"cutout-{number}.png"
    submit = ["submit", str(photo()), "--out", str(out), "--model", "birefnet-nano"]
    return {
        "import torch": [sys.executable, "-c", "import torch"],
        "submit": [*BGPIPE, *submit],
        "status": [*BGPIPE, "status"],
        "--help": [*BGPIPE, "--help"],
    }


def photo() -> Path:
    """One of the photos inside scikit-image."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("needs the extra samples")
    return Path(package.origin).parent / "data/rocket.jpg"


def timed(command: list[str], folder: Path) -> float:
    """Wait first until no worker and no server of the last command is left."""
    until_free(folder)
    environment = os.environ | {"BGPIPE_STATE_DIR": str(folder / "state")}
    environment.pop("BGPIPE_REDIS_URL", None)
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def until_free(folder: Path) -> None:
    while subprocess.run(["pgrep", "-f", str(folder)], capture_output=True).returncode == 0:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
