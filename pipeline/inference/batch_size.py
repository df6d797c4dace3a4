"""How many images a device takes best at once: measured at the first start, then remembered.

The last bits of a matte may depend on the number (infra/docs/performance.md), so whoever wants the
same bytes of several hosts sets it, or gives them one memory.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bgpipe.pipeline.inference.engine import BiRefNetEngine

GAIN = 1.03
"""How many times as fast a larger batch has to be: it costs memory, and images wait for it."""
TURNS = 5

log = logging.getLogger(__name__)


def tune(engine: BiRefNetEngine, size: tuple[int, int], memory: Path) -> None:
    """Give `engine` the batch that suits it, at most the one it has.

    `size`: of its images. `memory`: a JSON file of what was found before, by `engine.kind`.
    """
    known = _read(memory)
    batch = known.get(engine.signature)
    if not batch:
        batch = known[engine.signature] = _fastest(engine, size)
        _write(memory, known)
        log.info("batch measured", extra={"fields": {"batch": batch, "device": engine.signature}})
    engine.set_batch_size(batch)


def _fastest(engine: BiRefNetEngine, size: tuple[int, int]) -> int:
    """The smallest batch than which no larger one is clearly faster."""
    most = engine.batch
    images = [np.zeros((*size, 3), np.uint8)] * most
    best, least = 1, float("inf")
    for batch in _powers(most):
        engine.set_batch_size(batch)
        engine.infer(images)
        seconds = median(_turns(engine, images))
        if seconds * GAIN < least:
            best, least = batch, seconds
    return best


def _powers(most: int) -> Iterator[int]:
    batch = 1
    while batch <= most:
        yield batch
        batch *= 2


def _turns(engine: BiRefNetEngine, images: list[np.ndarray]) -> Iterator[float]:
    for _ in range(TURNS):
        start = time.perf_counter()
        engine.infer(images)
        yield time.perf_counter() - start


def _read(memory: Path) -> dict[str, int]:
    with suppress(OSError, ValueError):  # none yet, or not ours: it is only measured again
        found = json.loads(memory.read_text())
        if isinstance(found, dict):
            return {kind: n for kind, n in found.items() if isinstance(n, int) and n > 0}
    return {}


def _write(memory: Path, known: dict[str, int]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    new = memory.with_name(f"{memory.name}.{os.getpid()}")  # the workers of a host share it
    new.write_text(json.dumps(known, indent=1))
    new.replace(memory)
