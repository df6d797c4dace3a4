"""What a GPU makes of the network, in eight minutes: infra/bench/gpu [--out FILE] [--steps NAME ...].

Each step is a process with a time limit of its own, and each line of it is written to FILE (JSON) as
soon as it is known: a step that hangs or fails loses neither the others nor its own first lines. On a
machine without a GPU, or with --device cpu, a small network checks the script itself.

A host without a network needs the wheels of what is imported, for its Python, in a folder for --wheels:
    pip download --only-binary=:all: --python-version 3.12 -d wheels \
        cronsim pydantic pydantic-settings safetensors redis isal simplejpeg opencv-python-headless pillow
and, for the step `tests`, pytest. Steps whose packages are missing say so.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from steps import STEPS, Scale

TOTAL_SECONDS = 480.0
LIMITS = {
    "machine": 30,
    "engine": 90,
    "kernels": 60,
    "tests": 60,
    "attention": 30,
    "convolutions": 25,
    "profile": 30,
    "lanes": 55,
    "safety": 40,
    "compile": 120,
}
"""Seconds of each step, in order; what some leave is there for the last."""

Row = dict[str, object]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--steps", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS)
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--wheels", type=Path, help="folder of wheels that are not installed")
    parser.add_argument("--step", choices=LIMITS, help=argparse.SUPPRESS)  # of a child
    options = parser.parse_args()
    if options.step:
        for row in STEPS[options.step](Scale.of(options.device)):
            print(json.dumps(row), flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        packages = [str(folder)] if options.wheels else []
        for wheel in options.wheels.glob("*.whl") if options.wheels else ():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        path = os.pathsep.join([*packages, os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
        rows = measure(options.steps, options.seconds, options.device, environment, options.out)
    failed = [row for row in rows if "error" in row]
    print(f"{options.out}: {len(rows)} lines, {len(failed)} errors")
    return 1 if failed else 0


def measure(
    steps: Sequence[str],
    seconds: float,
    device: str | None,
    environment: Mapping[str, str],
    out: Path,
) -> list[Row]:
    end = time.monotonic() + seconds
    rows: list[Row] = []
    for step in steps:
        limit = min(LIMITS[step], end - time.monotonic())
        for row in run(step, limit, device, environment):
            rows.append({"step": step} | row)
            out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
            print(format_row(rows[-1]), flush=True)
    return rows


def run(
    step: str, limit: float, device: str | None, environment: Mapping[str, str]
) -> Iterator[Row]:
    """Yield the lines of a step as they come; of a step that fails, the last one has an `error`."""
    if limit <= 0:
        yield {"error": "no time left"}
        return
    command = [sys.executable, __file__, "--step", step]
    command += ["--device", device] if device else []
    start = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # its own children end with it
        ) as child,
    ):
        timer = threading.Timer(limit, os.killpg, (child.pid, signal.SIGKILL))
        timer.start()
        for line in child.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
        code = child.wait()
        timer.cancel()
        log.seek(0)
        last = (log.read().strip().splitlines() or [""])[-1]
    seconds = round(time.monotonic() - start, 1)
    if code == -signal.SIGKILL and seconds >= limit:
        yield {"error": f"over its limit of {limit:.0f} s", "seconds": seconds}
    elif code:
        yield {"error": f"exit code {code}: {last}", "seconds": seconds}
    else:
        yield {"what": "whole step", "seconds": seconds}


def format_row(row: Row) -> str:
    values = {key: value for key, value in row.items() if key not in {"step", "what"}}
    shown = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )
    return f"{row['step']:13} {row.get('what', ''):44} {', '.join(shown)}"


if __name__ == "__main__":
    sys.exit(main())
