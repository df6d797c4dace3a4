"""What Prometheus reads of a cluster: the ledger, the queue and the heartbeats, in its terms.

Each dispatcher tells of the whole cluster, so a query takes the maximum over instances, not their
sum (infra/docs/operations.md).

What Prometheus reads of workers, told by a dispatcher of all of them or by each of itself.

Names and labels are the same in both places.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from threading import Lock
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.broker.queue import QueueStats, read_stats
from bgpipe.pipeline.errors import Code, RedisUnavailable, StoreCorrupted
from bgpipe.pipeline.monitoring.cluster_stats import ClusterStats, OutcomeTotals, read_cluster_stats
from bgpipe.pipeline.monitoring.heartbeat import Heartbeat, WorkerStats, read_heartbeats
from bgpipe.pipeline.types import ReviewFlag

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.broker.client import RedisClient

HOUR = 3600.0
THOUSAND = 1000


class ClusterCollector(Collector):
    """Everything that the Redis behind `client` knows. Threads may share it.

    Give it a client without patience: a scraper does not wait for a server that is away.
    """

    def __init__(self, client: RedisClient, settings: Settings) -> None:
        self._client = client
        self._queue = settings.queue.name
        self._price = settings.estimate.price_per_hour
        self._ratchet = MonotonicTotals()

    def collect(self) -> Iterator[Metric]:
        yield build_family()
        try:
            found = list(self._read())
        except (RedisUnavailable, StoreCorrupted):
            found = [_gauge("redis_up", "Whether Redis answers.", 0)]
        yield from found

    def _read(self) -> Iterator[Metric]:
        client = self._client
        view, seen = read_cluster_stats(client), read_heartbeats(client)
        yield _gauge("redis_up", "Whether Redis answers.", 1)
        yield from _redis(client.info("memory"), client.info("persistence"))
        yield _gauge(
            "dispatcher_leads", "Whether a dispatcher leads.", is_held(client, keys.DISPATCH)
        )
        yield from _outcomes(view.totals, self._ratchet)
        yield from _queue(view, read_stats(client, self._queue))
        yield _gauge("workers", "Worker processes with a heartbeat.", len(seen))
        yield from _cost(view, len(seen), self._price)
        yield from worker_families(seen)


class MonotonicTotals:
    """Lets no counter go back while it counts from the same moment.

    A Redis that was killed has lost up to a second of counts; Prometheus would take the smaller
    number for a new beginning, and add all of it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._since = ""
        self._highest: dict[str, int] = {}

    def raise_to(self, totals: OutcomeTotals) -> OutcomeTotals:
        """The highest totals seen since `totals.since`."""
        with self._lock:
            if totals.since != self._since:
                self._since, self._highest = totals.since, {}
            for name, count in totals.counts.items():
                self._highest[name] = max(count, self._highest.get(name, 0))
            return OutcomeTotals(totals.since, dict(self._highest))


def _redis(memory: Mapping[str, int], persistence: Mapping[str, str]) -> Iterator[Metric]:
    limit = memory.get("maxmemory") or memory.get("total_system_memory", 0)
    written = [
        persistence.get(f"{kind}_status", "ok") for kind in ("aof_last_write", "rdb_last_bgsave")
    ]
    yield _gauge("redis_memory_used_bytes", "What Redis takes.", memory["used_memory"])
    yield _gauge("redis_memory_limit_bytes", "maxmemory, or else the machine's memory.", limit)
    yield _gauge("redis_writes_ok", "Whether Redis can write to its disk.", set(written) == {"ok"})


def _outcomes(totals: OutcomeTotals, ratchet: MonotonicTotals) -> Iterator[Metric]:
    totals = ratchet.raise_to(totals)
    images = CounterMetricFamily(
        "bgpipe_images", "Images by how they ended.", labels=["outcome", "code"]
    )
    for outcome in ("done", "skipped"):
        images.add_metric([outcome, ""], totals.ended(outcome))
    for code in Code:
        images.add_metric(["failed", code], totals.failed(code))
    flags = CounterMetricFamily("bgpipe_image_flags", "Review flags.", labels=["flag"])
    for flag in ReviewFlag:
        flags.add_metric([flag], totals.with_flag(flag))
    flagged = CounterMetricFamily("bgpipe_images_flagged", "Cutouts that somebody should look at.")
    flagged.add_metric([], totals.ended("flagged"))
    yield from (images, flagged, flags)


def _queue(view: ClusterStats, queue: QueueStats) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("bgpipe_jobs", "Jobs that the ledger keeps.", labels=["state"])
    for state, count in view.jobs.items():
        jobs.add_metric([state], count)
    yield jobs
    yield _gauge("images_unsettled", "Images of running jobs to come.", view.unsettled)
    yield _gauge("images_in_flight", "Images that are claimed.", view.in_flight)
    yield _gauge(
        "images_unsettled_oldest_seconds", "Since the oldest of them was listed.", view.oldest
    )
    yield _gauge("images_per_second", "Means of the jobs that run, added.", view.images_per_second)
    yield _gauge("queue_messages", "Messages that wait.", queue.waiting)
    yield _gauge("queue_unacked_messages", "Messages that workers hold.", queue.unacked)
    yield _gauge(
        "queue_oldest_message_seconds", "Since the oldest message was published.", queue.age
    )


def _cost(view: ClusterStats, devices: int, price: float) -> Iterator[Metric]:
    """Only what is known: without a price or progress there is nothing to tell."""
    if not price:
        return
    yield _gauge("device_price_per_hour", "Of [estimate], in its currency.", price)
    if devices and view.images_per_second:
        thousand = THOUSAND / (view.images_per_second * HOUR)
        yield _gauge(
            "cost_per_thousand_images",
            "Price of all workers' time for 1,000 images at the present pace.",
            devices * price * thousand,
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"bgpipe_{name}", text, value=value)


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
