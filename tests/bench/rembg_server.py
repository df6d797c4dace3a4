"""Runs rembg for beside_rembg.py, in an interpreter that has it. Answers each line with CPU seconds.

load SESSION FILE: make a session, and run its network alone. remove FILE 0|1: from JPEG to PNG; 1: with its
estimation of the foreground.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rembg import new_session, remove


def main() -> None:
    session = None
    for line in sys.stdin:
        name, first, second = line.split()
        if name == "load":
            session = new_session(first, model_path=second)
            network = session.inner_session
            inputs = {each.name: np.zeros(each.shape, np.float32) for each in network.get_inputs()}
            spent = min(seconds(network.run, None, inputs) for _ in range(2))
        else:
            data = Path(first).read_bytes()
            spent = seconds(remove, data, session=session, decontaminate=second == "1")
        print(spent, flush=True)


def seconds(step: Callable[..., object], *args: object, **options: object) -> float:
    start = time.process_time()
    step(*args, **options)
    return time.process_time() - start


if __name__ == "__main__":
    main()
