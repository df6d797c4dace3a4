"""Whole images, from file to cutout, through a Redis, a queue and a worker of the benchmark's own."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bgpipe.pipeline.bench.protocol import EndToEndResult
from bgpipe.pipeline.broker.embedded import worker
from bgpipe.pipeline.errors import Unavailable
from bgpipe.pipeline.monitoring.heartbeat import WorkerStats, read_heartbeats
from bgpipe.pipeline.session import Session, open_session
from bgpipe.pipeline.types import Job, JobId, JobSummary, Recipe

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.processes import ChildProcess

FIRST_IMAGES = 8
"""Of the first job, which loads the model and is not counted."""
POLL = 0.05
BEAT_LIMIT = 60.0
"""Seconds within which a worker tells of itself."""
ASPECT = 4 / 3
GRAIN = 24
"""Pixels of the photo's soft shapes, before the sensor's noise."""


@dataclass(frozen=True, slots=True)
class BenchCluster:
    """A worker and the way to it."""

    session: Session
    child: ChildProcess
    folder: Path

    def measure(
        self, recipe: Recipe, megapixels: Sequence[float], seconds: float
    ) -> Iterator[EndToEndResult]:
        """The sizes in turn, about `seconds` each.

        Raises:
            Unavailable: the worker ends, or an image fails.

        """
        pace = self._run("first", recipe, megapixels[0], FIRST_IMAGES).images_per_second
        for size in megapixels:
            found = self._run(f"{size:g}", recipe, size, max(FIRST_IMAGES, round(pace * seconds)))
            pace = found.images_per_second
            yield found

    def _run(self, name: str, recipe: Recipe, megapixels: float, images: int) -> EndToEndResult:
        """One job of `images` photos of one size, once the worker has told that it is idle."""
        source = self.folder / "photos" / name
        source.mkdir(parents=True)
        photo = _photo(megapixels)
        for number in range(images):
            (source / f"{number:05}.jpg").write_bytes(photo)
        before = self._stats(time.time())
        job = Job(
            JobId(f"bench-{name}"), str(source), str(source) + "-cutouts", recipe, time.time()
        )
        start = time.perf_counter()
        summary = self._run_job(job)
        spent = time.perf_counter() - start
        if summary.done != images:
            raise Unavailable(f"images failed: {summary.errors}: see {self.folder}")
        after = self._stats(time.time())
        return EndToEndResult(
            megapixels,
            images,
            images / spent,
            (after.device_seconds - before.device_seconds) / spent,
            max(before.memory, after.memory),
            _means(before, after),
        )

    def _run_job(self, job: Job) -> JobSummary:
        session = self.session
        lease = session.submitter.open_job(job)
        session.submitter.list_and_start(job.id, lease)
        leader = session.controller(job.id, lease)
        while (summary := session.jobs.summary(job.id)).state != "finished":
            leader.step(session.feeder.capacity())
            self.child.check()
            time.sleep(POLL)
        return summary

    def _stats(self, since: float) -> WorkerStats:
        """What the worker told of itself after `since`, a Unix time."""
        deadline = time.monotonic() + BEAT_LIMIT
        while time.monotonic() < deadline:
            for beat in read_heartbeats(self.session.client):
                if beat.stats.beat > since:
                    return beat.stats
            self.child.check()
            time.sleep(POLL)
        raise Unavailable(f"the worker tells nothing of itself: see {self.folder}")


@contextmanager
def bench_cluster(settings: Settings, folder: Path) -> Iterator[BenchCluster]:
    """Bring a Redis and a worker, whatever cluster there is; everything is written into `folder`."""
    own = settings.model_copy(update={"redis_url": "", "state_folder": folder / "state"})
    with (
        open_session(own) as session,
        worker(session.redis_url, own.state_folder, own.worker.drain_timeout) as child,
    ):
        yield BenchCluster(session, child, folder)


def _means(before: WorkerStats, after: WorkerStats) -> dict[str, float]:
    """Mean seconds of each stage between two beats."""
    means = {}
    for name, told in after.stages.items():
        old = before.stages.get(name)
        count = told.count - (old.count if old else 0)
        if count:
            means[name] = (told.sum - (old.sum if old else 0.0)) / count
    return means


def _photo(megapixels: float) -> bytes:
    """A JPEG of soft shapes and a sensor's noise: about as many bytes a pixel as a photo has."""
    width = round((megapixels * 1e6 * ASPECT) ** 0.5)
    height = round(width / ASPECT)
    random = np.random.default_rng(0)
    shapes = random.integers(0, 256, (height // GRAIN + 2, width // GRAIN + 2, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(shapes).resize((width, height), Image.Resampling.BICUBIC))
    noise = random.normal(0, 5, smooth.shape[:2])[..., None]
    file = io.BytesIO()
    Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
