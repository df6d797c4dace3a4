"""Counts what a worker does, and writes the counts to Redis as its heartbeat."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.monitoring.heartbeat import LIFE, Histogram, WorkerStats
from bgpipe.pipeline.processes import background_thread
from bgpipe.workers.budget import resident_bytes

PERIOD = 5.0
"""Seconds between two heartbeats."""

log = EventLogger(__name__)


class WorkerCounters:
    """The worker's own WorkerStats, counted up in place. Threads may share it."""

    def __init__(self, stats: WorkerStats) -> None:
        self._lock = threading.Lock()
        self._stats = stats

    @contextmanager
    def update(self) -> Iterator[WorkerStats]:
        """Yield the statistics for changes that other threads see at once or not at all."""
        with self._lock:
            yield self._stats

    def snapshot(self, ages: Sequence[float] = ()) -> WorkerStats:
        """Return a copy of this moment; `ages` are the seconds of the images in flight."""
        with self._lock:
            stats = deepcopy(self._stats)
        stats.beat, stats.memory = time.time(), resident_bytes()
        stats.in_flight, stats.oldest = len(ages), max(ages, default=0.0)
        return stats

    def record_outcome(self, seconds: float, stages: Mapping[str, float]) -> None:
        """Count an image that ended after `seconds`, and the seconds of its stages."""
        with self.update() as stats:
            stats.images += 1
            stats.progress = time.time()
            for name, duration in {"image": seconds, **stages}.items():
                stats.stages.setdefault(name, Histogram()).observe(duration)

    def record_write(self, location: str) -> None:
        """Note the free space of the store at `location`, which has a new cutout."""
        free = -1
        if "://" not in location:
            with suppress(OSError):  # the folder is gone, which the next write reports
                free = shutil.disk_usage(location).free
        with self.update() as stats:
            stats.disk_free = free


@contextmanager
def sending_heartbeats(
    client: RedisClient,
    worker: str,
    read_stats: Callable[[], WorkerStats],
    after_beat: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Write heartbeats from a thread until the block ends; `worker` is the name that claims items."""
    key = keys.of_worker(worker)

    def write() -> None:
        try:
            client.hset(key, mapping=cast("dict[Any, Any]", read_stats().write()))
            client.expire(key, LIFE)
            after_beat()
        except RedisUnavailable as error:
            log.warning("heartbeat missed", error=str(error))

    def run(stopped: threading.Event) -> None:
        while not stopped.wait(PERIOD):
            write()

    write()  # before the first claim: its owner counts as alive
    try:
        with background_thread("heartbeat", run):
            yield
    finally:
        with suppress(RedisUnavailable):
            client.delete(key)


def is_alive(client: RedisClient, worker: str) -> bool:
    """Return whether the worker that claims as `worker` sent a heartbeat within `LIFE` seconds."""
    return bool(client.exists(keys.of_worker(worker)))
