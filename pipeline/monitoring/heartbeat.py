"""Heartbeats: what each worker reports of itself, as a hash in Redis with a time to live.

A field of WorkerStats is at once a counter of the worker, a field of its heartbeat and a metric.
The age of a heartbeat follows from its remaining time to live, by the server's clock: the clocks of
the hosts need not agree.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import accumulate
from math import inf
from typing import Any

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, run_lua

BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, inf)
"""Upper bounds of a histogram's buckets in seconds, from a fast step to the limit of a stage."""
LIFE = 20
"""Seconds after its last heartbeat for which a worker counts as alive."""
STAGE = "stage:"
"""Prefix of the fields that hold the stages' histograms."""


@dataclass(slots=True)
class Histogram:
    """Counts of durations by BOUNDS, and their sum in seconds. Not safe for threads."""

    sum: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bound with the number of observations up to it, as Prometheus counts them."""
        return zip(BOUNDS, accumulate(self.counts), strict=True)

    def write(self) -> str:
        return json.dumps([self.sum, *self.counts])

    @classmethod
    def read(cls, text: str | bytes) -> Histogram:
        """Parse the text that `write` returned.

        Raises ValueError if not a histogram, or one with other bounds.
        """
        total, *counts = json.loads(text)
        if len(counts) != len(BOUNDS):
            raise ValueError(f"not a histogram of this version: {len(counts)} buckets")
        return cls(float(total), [int(count) for count in counts])


@dataclass(frozen=True, slots=True)
class FieldMetric:
    """How Prometheus shows a field of statistics; the name lacks bgpipe_ or bgpipe_worker_."""

    name: str
    text: str
    is_counter: bool = False


def gauge(name: str, text: str, default: float = 0, is_counter: bool = False) -> Any:  # noqa: ANN401
    """Return a field of a dataclass that is shown as bgpipe's metric `name` with the help `text`."""
    return field(default=default, metadata={"metric": FieldMetric(name, text, is_counter)})


counter = partial(gauge, is_counter=True)


def metrics_of(stats: type[Any]) -> Mapping[str, FieldMetric]:
    """Return the metrics of a dataclass by their fields."""
    metadata = {each.name: each.metadata for each in fields(stats)}
    return {name: data["metric"] for name, data in metadata.items() if "metric" in data}


@dataclass(slots=True)
class WorkerStats:
    """A worker since its process began. Times are Unix times; 0 means unknown."""

    device: str = ""
    """cpu or cuda."""
    model: str = ""
    """sha256 of the weights that found a subject last; empty before the first image."""
    lanes: int = gauge("lanes", "Maximum number of images in flight.")
    batch: int = gauge("batch_size", "Maximum number of images in a forward pass.")
    restarts: int = counter("restarts", "Earlier processes of this worker.")
    images: int = counter("images", "Images settled by this process.")
    progress: float = 0.0
    """Time of the last of them."""
    beat: float = 0.0
    """Time of the heartbeat."""
    in_flight: int = gauge("lanes_busy", "Images in flight.")
    oldest: float = gauge("oldest_image_seconds", "Age of the oldest image in flight.", 0.0)
    steps: int = counter("device_steps", "Forward passes.")
    device_images: int = counter("device_images", "Images in forward passes.")
    device_seconds: float = counter("device_busy_seconds", "Time in forward passes.", 0.0)
    memory: int = gauge("memory_bytes", "Resident memory of the process.")
    disk_free: int = gauge("disk_free_bytes", "Free space where the last cutout was written.", -1)
    """-1, which is not shown, for a bucket."""
    stages: dict[str, Histogram] = field(default_factory=dict)

    def write(self) -> dict[str, str | int | float]:
        stages = {f"{STAGE}{name}": stage.write() for name, stage in self.stages.items()}
        return {name: getattr(self, name) for name in _NAMES} | stages

    @classmethod
    def read(cls, stored: Mapping[str, str]) -> WorkerStats:
        """Parse a hash, ignoring fields of other versions."""
        types = {name: type(value) for name, value in cls().write().items()}
        plain: Any = {name: types[name](text) for name, text in stored.items() if name in types}
        stages = {}
        for name, text in stored.items():
            if name.startswith(STAGE):
                with suppress(ValueError):  # other bounds
                    stages[name.removeprefix(STAGE)] = Histogram.read(text)
        return cls(**plain, stages=stages)


_NAMES = [stat.name for stat in fields(WorkerStats) if stat.name != "stages"]
METRICS = metrics_of(WorkerStats)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat `age` seconds ago. `worker` is the same for a process and its successors."""

    worker: str
    age: float
    stats: WorkerStats

    @property
    def label(self) -> str:
        """The device within its host, like gpu0; names of embedded workers have more."""
        return self.worker.partition("@")[0].partition("-")[0]

    @property
    def host(self) -> str:
        return self.worker.rpartition("@")[2]

    @property
    def idle(self) -> float:
        """Seconds since an image ended or, before the first one, since the oldest was begun."""
        stats = self.stats
        return stats.beat - stats.progress if stats.progress else stats.oldest

    def is_stalled(self, limit: float) -> bool:
        """Return whether images have been in flight for `limit` seconds without one ending."""
        return self.stats.in_flight > 0 and min(self.stats.oldest, self.idle) > limit


def read_heartbeats(client: RedisClient) -> list[Heartbeat]:
    """Return the last heartbeat of each worker seen within `LIFE` seconds, by name."""
    prefix = keys.of_worker("")
    names = list(client.scan_iter(match=keys.of_worker("*"), count=1000))
    replies = run_lua(client, __package__, "heartbeats", keys=names) if names else []
    latest: dict[str, Heartbeat] = {}
    for name, (flat, milliseconds) in zip(names, replies, strict=True):
        stored = dict(zip(*[(text.decode() for text in flat)] * 2, strict=True))
        worker = name.decode().removeprefix(prefix).partition("/")[0]
        age = LIFE - milliseconds / 1000
        # The successor of a process that died has the younger heartbeat.
        if stored and (worker not in latest or age < latest[worker].age):
            latest[worker] = Heartbeat(worker, age, WorkerStats.read(stored))
    return [latest[worker] for worker in sorted(latest)]
