"""Where the processor time of a submit goes: `python tests/bench/submit_profile.py PHOTO ... [--versus PYTHON]`.

Runs `bgpipe submit` on copies of the photos with the bundled model and samples /proc meanwhile: CPU seconds of each
process, how many of them in the kernel, and peak memory. Medians of the rounds; `--versus PYTHON` alternates with
another environment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

TICKS = os.sysconf("SC_CLK_TCK")
PROCESSES = ("worker", "command", "supervisor")
POLL, SCAN = 0.005, 0.1
"""Seconds between two readings, and between two searches for new processes."""

Usage = tuple[float, float, float]
"""CPU seconds, those in the kernel, and MB at the peak."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--versus", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pythons = [sys.executable, *([given.versus] if given.versus else [])]
    rounds: dict[str, list[dict[str, Usage]]] = {python: [] for python in pythons}
    for _ in range(given.rounds):
        for python, measured in rounds.items():
            measured.append(profile(python, given.photos))
    both = " / versus" if given.versus else ""
    print(
        f"| {len(given.photos)} photos{both} | CPU s | of it kernel | peak MB |\n|---|---|---|---|"
    )
    for name in PROCESSES:
        columns = (
            " / ".join(
                f"{median(each.get(name, (0.0,) * 3)[at] for each in measured):.{0 if at == 2 else 2}f}"
                for measured in rounds.values()
            )
            for at in range(3)
        )
        print(f"| {name} | " + " | ".join(columns) + " |", flush=True)


def profile(python: str, photos: Sequence[Path]) -> dict[str, Usage]:
    """Return what each process of one submit used."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "photos").mkdir()
        for number, photo in enumerate(photos):
            shutil.copy(photo, home / "photos" / f"{number:04}{photo.suffix}")
        command = [python, "-m", "bgpipe.pipeline.cli", "submit", str(home / "photos")]
        state = f"BGPIPE_STATE_DIR={home / 'state'}"
        used: dict[Path, tuple[str, Usage]] = {}
        known: list[Path] = []
        scan = 0.0
        with subprocess.Popen(
            [*command, "--model", "birefnet-nano"],
            env=os.environ | dict([state.split("=", 1)]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None or known:
                if time.monotonic() >= scan:  # slower than reading those that are known
                    known, scan = [*running(state)], time.monotonic() + SCAN
                for found in known:
                    with suppress(OSError, IndexError):  # ended meanwhile
                        used[found] = read_usage(found)
                time.sleep(POLL)
        assert process.returncode == 0, process.returncode
        return dict(used.values())


def running(variable: str) -> Iterator[Path]:
    """Yield the folder in /proc of each process that has this variable, but not of this one."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield folder


def read_usage(process: Path) -> tuple[str, Usage]:
    command = (process / "cmdline").read_text().replace("\0", " ")
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    user, kernel = (int(field) / TICKS for field in fields[11:13])
    status = (process / "status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    if "bgpipe.workers" in command:
        name = "worker" if "--name" in command else "supervisor"
    else:
        name = "command" if " submit " in command else "server"  # needs a hundredth
    return name, (user + kernel, kernel, peak)


if __name__ == "__main__":
    main()
