"""How long a person waits for a small job: `python tests/bench/small_job.py [--rounds N] [--versus PYTHON]`.

Alternates the commands of a first day, each in a state folder that earlier rounds have left as a user
would, and prints the medians. `--versus` names the interpreter of another environment, whose bgpipe is
measured in turn with this one's. Exit 1 where a bound is missed: a submit of one photo takes at most a
second more than `import torch`, status at most 2.5 times as long as the help.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

SUBMIT_MARGIN = 1.0
STATUS_RATIO = 2.5
NANO = ("--model", "birefnet-nano")
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
MISSING_HUB = "http://127.0.0.1:9"

Seconds = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--versus", metavar="PYTHON")
    options = parser.parse_args()
    pythons = [sys.executable, *([options.versus] if options.versus else [])]
    with tempfile.TemporaryDirectory() as folder:
        sides = [Side(python, Path(folder) / str(n)) for n, python in enumerate(pythons)]
        for number in range(options.rounds + 1):
            for side in sides:
                side.measure(counts=number > 0)
        for side in sides:
            side.wait()  # before the folder is removed
    show(sides)
    medians = {name: median(seconds) for name, seconds in sides[0].took.items()}
    margin = medians["submit, one photo"] - medians["import torch"]
    ratio = medians["status"] / medians["--help"]
    sys.stdout.write(f"submit: import torch + {margin:.2f} s; status: {ratio:.2f} times --help\n")
    return int(margin > SUBMIT_MARGIN or ratio > STATUS_RATIO)


class Side:
    """One environment's bgpipe with a home of its own."""

    def __init__(self, python: str, home: Path) -> None:
        self._bgpipe = [python, "-m", "bgpipe.pipeline.cli"]
        self._python = python
        self._home = home
        self.took: Seconds = {}
        (home / "photos").mkdir(parents=True)
        for name in PHOTOS:
            shutil.copy(samples() / name, home / "photos")

    def measure(self, *, counts: bool) -> None:
        """Run every command once; `counts`: keep the times."""
        for name, command in self._commands().items():
            seconds = self._timed(command)
            if counts:
                self.took.setdefault(name, []).append(seconds)

    def _commands(self) -> dict[str, list[str]]:
        """The commands in the order of a first day; the cutouts of the last round are gone."""
        photos = str(self._home / "photos")
        for made in ("photos-cutouts", "one-cutouts"):
            shutil.rmtree(self._home / made, ignore_errors=True)
        one = [f"{photos}/rocket.jpg", "--out", str(self._home / "one-cutouts"), *NANO]
        submits = {
            "submit, one photo": one,
            "submit, four photos": [photos, *NANO],
            "submit, up to date": [photos, *NANO],
            "submit, no hub": [photos, "--dry-run"],
        }
        sheet = str(self._home / "sheet.html")
        return {
            "import torch": [self._python, "-c", "import torch"],
            "--help": [*self._bgpipe, "--help"],
            **{name: [*self._bgpipe, "submit", *words] for name, words in submits.items()},
            "status": [*self._bgpipe, "status"],
            "jobs": [*self._bgpipe, "jobs"],
            "report": [*self._bgpipe, "report", "--out", sheet],
            "doctor": [*self._bgpipe, "doctor"],
            "models list": [*self._bgpipe, "models", "list"],
        }

    def wait(self) -> None:
        """Wait until no process of this home is left."""
        while subprocess.run(["pgrep", "-f", str(self._home)], capture_output=True).returncode == 0:
            time.sleep(0.05)

    def _timed(self, command: list[str]) -> float:
        """Run it once no worker and no server of the last command is left."""
        self.wait()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BGPIPE_")}
        ours = {"BGPIPE_STATE_DIR": str(self._home / "state"), "HF_ENDPOINT": MISSING_HUB}
        start = time.perf_counter()
        done = subprocess.run(command, env=kept | ours, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        return seconds


def samples() -> Path:
    """The folder of the photos inside scikit-image."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise SystemExit("needs the extra samples")
    return Path(package.origin).parent / "data"


def show(sides: list[Side]) -> None:
    """A line for each command: the medians, the slowest and the fastest run."""
    for name in sides[0].took:
        cells = []
        for side in sides:
            seconds = side.took[name]
            cells.append(f"{median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
        sys.stdout.write(f"{name:20} {'   '.join(cells)}\n")


if __name__ == "__main__":
    sys.exit(main())
