"""Benchmark of whole images, from file to cutout, through a Redis, a queue and a worker of its own."""

import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from bgpipe.config.settings import Settings
from bgpipe.pipeline.bench.protocol import EndToEndResult
from bgpipe.pipeline.errors import Unavailable
from bgpipe.pipeline.monitoring.heartbeat import Histogram, WorkerStats, read_heartbeats
from bgpipe.pipeline.processes import ChildProcess
from bgpipe.pipeline.scheduling.dispatcher import JobController, make_feeder
from bgpipe.pipeline.scheduling.submission import list_and_start, open_job
from bgpipe.pipeline.session import Session, open_session
from bgpipe.pipeline.types import Job, JobId, Recipe

MIN_IMAGES = 8
"""Also the size of the first job, which loads the model and is not counted."""
POLL_SECONDS = 0.2
HEARTBEAT_TIMEOUT = 60.0
ASPECT = 4 / 3
SHAPE_PIXELS = 24
"""Distance of the photo's soft shapes."""


@dataclass(frozen=True, slots=True)
class BenchCluster:
    """A worker and the session that it serves."""

    session: Session
    child: ChildProcess
    folder: Path

    def measure(
        self, recipe: Recipe, megapixels: Sequence[float], seconds: float
    ) -> Iterator[EndToEndResult]:
        """Measure each size for about `seconds`.

        Raises Unavailable if the worker exits, or an image fails.
        """
        previous = self.run("first", recipe, megapixels[0], MIN_IMAGES)
        for size in megapixels:
            images = max(MIN_IMAGES, round(previous.images_per_second * seconds))
            previous = self.run(f"{size:g}", recipe, size, images)
            yield previous

    def run(self, name: str, recipe: Recipe, megapixels: float, images: int) -> EndToEndResult:
        source = self.folder / "photos" / name
        source.mkdir(parents=True)
        photo = _make_photo(megapixels)
        for number in range(images):
            (source / f"{number:05}.jpg").write_bytes(photo)
        before, session = self._read_stats(), self.session
        job = Job(JobId(f"bench-{name}"), str(source), f"{source}-cutouts", recipe, time.time())
        start = time.perf_counter()
        lease = open_job(session, job)
        list_and_start(session, job.id, lease)
        controller = JobController(make_feeder(session), lease, job.id)
        while (summary := session.jobs.summary(job.id)).state != "finished":
            controller.step(controller.feeder.capacity())
            self.child.check()
            # Polling takes time from the worker; seeing the end late, from the result.
            time.sleep(min(POLL_SECONDS, (time.perf_counter() - start) / 50))
        elapsed = time.perf_counter() - start
        if summary.done != images:
            raise Unavailable(f"images failed: {summary.errors}: see {self.folder}")
        after = self._read_stats()
        return EndToEndResult(
            megapixels,
            images,
            images / elapsed,
            (after.device_seconds - before.device_seconds) / elapsed,
            max(before.memory, after.memory),
            _mean_stage_seconds(before, after),
        )

    def _read_stats(self) -> WorkerStats:
        """Wait for a heartbeat that is later than this call."""
        since, deadline = time.time(), time.monotonic() + HEARTBEAT_TIMEOUT
        while time.monotonic() < deadline:
            for heartbeat in read_heartbeats(self.session.client):
                if heartbeat.stats.beat > since:
                    return heartbeat.stats
            self.child.check()
            time.sleep(POLL_SECONDS)
        raise Unavailable(f"no heartbeat of the worker: see {self.folder}")


@contextmanager
def open_bench_cluster(settings: Settings, folder: Path) -> Iterator[BenchCluster]:
    """Start a Redis server and a worker whatever the settings name, and write only into `folder`."""
    own = settings.model_copy(update={"redis_url": "", "state_dir": str(folder / "state")})
    with open_session(own) as session, session.worker() as child:
        yield BenchCluster(session, child, folder)


def _mean_stage_seconds(before: WorkerStats, after: WorkerStats) -> Mapping[str, float]:
    return {
        name: (new.sum - old.sum) / (new.count - old.count)
        for name, new in after.stages.items()
        for old in [before.stages.get(name, Histogram())]
        if new.count > old.count
    }


def _make_photo(megapixels: float) -> bytes:
    """Encode a JPEG of soft shapes and sensor noise, with about a photo's bytes per pixel."""
    width = round((megapixels * 1e6 * ASPECT) ** 0.5)
    height = round(width / ASPECT)
    random = np.random.default_rng(0)
    shape = height // SHAPE_PIXELS + 2, width // SHAPE_PIXELS + 2, 3
    image = Image.fromarray(random.integers(0, 256, shape, np.uint8))
    smooth = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    noise = random.normal(0, 5, smooth.shape[:2])[..., None]
    file = io.BytesIO()
    Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()
