"""What Prometheus reads of workers, told by a dispatcher of all of them or by each of itself.

Names and labels are the same in both places.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from math import inf

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bgpipe.pipeline.vitals import Heartbeat, WorkerStats

Family = GaugeMetricFamily | CounterMetricFamily
Reading = Callable[[WorkerStats], float]

GAUGES: tuple[tuple[str, str, Reading], ...] = (
    ("lanes", "Images that it can have in flight.", lambda vitals: vitals.lanes),
    ("lanes_busy", "Images that it has in flight.", lambda vitals: vitals.in_flight),
    ("oldest_image_seconds", "Age of its oldest image in flight.", lambda vitals: vitals.oldest),
    ("batch_size", "Images that a forward pass takes at most.", lambda vitals: vitals.batch),
    ("memory_bytes", "Resident memory of the process.", lambda vitals: vitals.memory),
)
COUNTERS: tuple[tuple[str, str, Reading], ...] = (
    (
        "restarts",
        "Processes that took the place of one that ended.",
        lambda vitals: vitals.restarts,
    ),
    ("images", "Outcomes of this process.", lambda vitals: vitals.images),
    ("device_steps", "Forward passes.", lambda vitals: vitals.steps),
    ("device_images", "Images in forward passes.", lambda vitals: vitals.device_images),
    ("device_busy_seconds", "Time in forward passes.", lambda vitals: vitals.device_seconds),
)


class WorkerCollector(Collector):
    """One worker's numbers as it knows them at the moment."""

    def __init__(self, worker: str, vitals: Callable[[], WorkerStats]) -> None:
        self._worker = worker
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        yield build_family()
        yield from worker_families([Heartbeat(self._worker, 0.0, self._vitals())])


def build_family() -> Metric:
    family = InfoMetricFamily("bgpipe_build", "What runs here.")
    family.add_metric([], {"version": importlib.metadata.version("bgpipe")})
    return family


def worker_families(seen: Sequence[Heartbeat]) -> Iterator[Metric]:
    """The families of all workers."""
    yield _info(seen)
    for name, text, reading in GAUGES:
        yield _family(GaugeMetricFamily(*_named(name, text)), seen, reading)
    for name, text, reading in COUNTERS:
        yield _family(CounterMetricFamily(*_named(name, text)), seen, reading)
    yield _ages(seen)
    yield _disks(seen)
    yield _stages(seen)


def _named(name: str, text: str) -> tuple[str, str, None, list[str]]:
    """Name, help, no value yet, and labels of a family."""
    return f"bgpipe_worker_{name}", text, None, ["worker"]


def _family(family: Family, seen: Sequence[Heartbeat], reading: Reading) -> Metric:
    for one in seen:
        family.add_metric([one.worker], reading(one.stats))
    return family


def _info(seen: Sequence[Heartbeat]) -> Metric:
    family = InfoMetricFamily("bgpipe_worker", "What it works with.", labels=["worker"])
    for one in seen:
        family.add_metric([one.worker], {"device": one.stats.device, "model": one.stats.model[:12]})
    return family


def _ages(seen: Sequence[Heartbeat]) -> Metric:
    family = GaugeMetricFamily(*_named("heartbeat_age_seconds", "Since its last heartbeat."))
    for one in seen:
        family.add_metric([one.worker], one.age)
    return family


def _disks(seen: Sequence[Heartbeat]) -> Metric:
    family = GaugeMetricFamily(*_named("disk_free_bytes", "Where its last cutout was written."))
    for one in seen:
        if one.stats.disk_free >= 0:  # a bucket has no such number
            family.add_metric([one.worker], one.stats.disk_free)
    return family


def _stages(seen: Sequence[Heartbeat]) -> Metric:
    family = HistogramMetricFamily(
        "bgpipe_worker_stage_seconds", "Stages of an image.", labels=["worker", "stage"]
    )
    for one in seen:
        for stage, histogram in sorted(one.stats.stages.items()):
            buckets = [(_bound(bound), float(count)) for bound, count in histogram.cumulative()]
            family.add_metric([one.worker, stage], buckets, histogram.sum)
    return family


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == inf else str(seconds)
