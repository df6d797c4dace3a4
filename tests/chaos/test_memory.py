"""A worker's resident memory over 10,000 small images."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.types import JobState

from ..workers.conftest import Cluster
from .conftest import dispatcher

pytestmark = pytest.mark.chaos

IMAGES = 10_000
WARM = 1_000
DISTINCT = 100
MOST_GROWTH = 1.05
LIMIT = 900.0
CPU = ["-m", "bgpipe.workers", "--name", "cpu0@test"]


def photos(folder: Path) -> list[str]:
    noise = np.random.default_rng(0)
    for i in range(IMAGES):
        path = folder / f"{i:05}.jpg"
        if i < DISTINCT:
            pixels = noise.integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(pixels).resize((64, 48)).save(path)
        else:
            os.link(folder / f"{i % DISTINCT:05}.jpg", path)
    return [f"{i:05}.jpg" for i in range(IMAGES)]


def resident(pid: int) -> int:
    """Bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_after_ten_thousand_images_is_that_after_a_thousand(cluster: Cluster) -> None:
    seen: dict[int, int] = {}
    deadline = time.monotonic() + LIMIT
    with cluster.process(CPU, {}) as worker, dispatcher(cluster):
        job = cluster.submit(photos(cluster.source))
        while (summary := cluster.jobs.summary(job)).state != JobState.FINISHED:
            assert time.monotonic() < deadline, summary
            seen[summary.done] = resident(worker.pid)
            time.sleep(0.5)
        assert (summary.done, summary.failed) == (IMAGES, 0)
        last = resident(worker.pid)
    first = seen[min(done for done in seen if done >= WARM)]
    print(
        f"resident after {WARM} images {first / 2**20:.1f} MiB, after {IMAGES} {last / 2**20:.1f} MiB: "
        f"{last / first - 1:+.1%}, {summary.images_per_second:.0f} images/s"
    )
    assert last <= MOST_GROWTH * first
