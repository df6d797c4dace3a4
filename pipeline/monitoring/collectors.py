"""Prometheus collectors of a cluster and of one worker, and the endpoint that is scraped.

Each dispatcher exports the whole cluster, so queries take the maximum over instances, not their sum
(infra/docs/operations.md). Metrics of workers have the same names and labels in both collectors.
"""

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from threading import Lock
from typing import Any, cast

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient, run_lua
from bgpipe.pipeline.broker.lease import is_held
from bgpipe.pipeline.broker.queue import QueueStats, read_stats
from bgpipe.pipeline.errors import Code, RedisUnavailable, StoreCorrupted, UsageError
from bgpipe.pipeline.jobs.records import ERROR, FLAG
from bgpipe.pipeline.monitoring.heartbeat import (
    METRICS,
    Heartbeat,
    WorkerStats,
    gauge,
    metrics_of,
    read_heartbeats,
)
from bgpipe.pipeline.types import JobState, ReviewFlag

UNKNOWN = -1
"""Value of a statistic that is not exported."""


@dataclass(frozen=True, slots=True)
class ClusterStats:
    """All jobs at one moment; the fields with a metric cover the running ones."""

    since: str
    """The start of `counts`; it changes if Redis was emptied."""
    counts: Counter[str]
    """Images that were done, skipped or flagged, by ERROR and code, and by FLAG and flag.

    They do not shrink when a job is forgotten or its failures are retried."""
    jobs: Mapping[JobState, int]
    paused: float = gauge("jobs_paused", "Running jobs whose images are all refused.")
    unsettled: float = gauge("images_unsettled", "Unsettled images of running jobs.")
    in_flight: float = gauge("images_in_flight", "Images claimed by workers.")
    oldest: float = gauge(
        "images_unsettled_oldest_seconds", "Time since the oldest of them was listed."
    )
    images_per_second: float = gauge("images_per_second", "Sum of the running jobs' averages.")


def read_cluster_stats(client: RedisClient) -> ClusterStats:
    names, args = [keys.JOBS, keys.TOTALS], [keys.JOB_PREFIX]
    replies = run_lua(client, __package__, "cluster_stats", keys=names, args=args)
    totals, stats = map(_pairs, replies)
    since = totals.pop("since", "")
    counts = Counter({name: int(count) for name, count in totals.items()})
    jobs = {state: int(stats.pop(state)) for state in JobState}
    return ClusterStats(since, counts, jobs, **{name: float(n) for name, n in stats.items()})


def _pairs(flat: Sequence[bytes | int]) -> dict[str, str]:
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


@dataclass
class MonotonicTotals:
    """Keeps counters from falling as long as they count from the same start.

    A Redis that was killed loses up to a second of counts; Prometheus would take the smaller number
    for a restart from zero, and add all of it.
    """

    _since: str = ""
    _highest: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    def raise_to(self, since: str, counts: Counter[str]) -> Counter[str]:
        """Return the highest counts seen of those that began at `since`."""
        with self._lock:
            self._highest = counts | self._highest if since == self._since else counts
            self._since = since
            return self._highest


@dataclass(eq=False)
class ClusterCollector(Collector):
    """Metrics of the cluster of one Redis. Threads may share it.

    `client` must not retry: a scrape does not wait for a server that is away.
    """

    client: RedisClient
    settings: Settings
    _monotonic: MonotonicTotals = field(default_factory=MonotonicTotals)

    def collect(self) -> Iterator[Metric]:
        yield _build_info()
        try:
            metrics = list(self._read())
        except (RedisUnavailable, StoreCorrupted):
            metrics = [_gauge("redis_up", "Whether Redis answers.", 0)]
        yield from metrics

    def _read(self) -> Iterator[Metric]:
        client, settings = self.client, self.settings
        stats, heartbeats = read_cluster_stats(client), read_heartbeats(client)
        yield _gauge("redis_up", "Whether Redis answers.", 1)
        yield from _redis(client.info("memory") | client.info("persistence"))
        leads = is_held(client, keys.DISPATCH)
        yield _gauge("dispatcher_leads", "Whether a dispatcher leads.", leads)
        yield from _outcomes(self._monotonic.raise_to(stats.since, stats.counts))
        yield from _jobs(stats, read_stats(client, settings.queue.name))
        yield _gauge("workers", "Worker processes with a heartbeat.", len(heartbeats))
        yield from _cost(stats, len(heartbeats), settings.estimate.price_per_hour)
        yield from _workers(heartbeats)


@dataclass(eq=False)
class WorkerCollector(Collector):
    """Metrics of one worker. `read_stats` returns its present statistics."""

    worker: str
    read_stats: Callable[[], WorkerStats]

    def collect(self) -> Iterator[Metric]:
        yield _build_info()
        yield from _workers([Heartbeat(self.worker, 0.0, self.read_stats())])


@contextmanager
def serve_metrics(collector: Collector, host: str, port: int) -> Iterator[None]:
    """Answer GET /metrics from a thread until the block ends.

    Raises UsageError if the address cannot be bound.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        place = f"{host}:{port}: {error.strerror}"
        raise UsageError(f"metrics cannot be served: {place}: choose another address") from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _redis(stored: Mapping[str, Any]) -> Iterator[Metric]:
    limit = stored.get("maxmemory") or stored.get("total_system_memory", 0)
    writes = {stored.get(f"{name}_status", "ok") for name in ("aof_last_write", "rdb_last_bgsave")}
    yield _gauge("redis_memory_used_bytes", "Memory used by Redis.", stored["used_memory"])
    yield _gauge("redis_memory_limit_bytes", "maxmemory, or else the machine's memory.", limit)
    yield _gauge("redis_writes_ok", "Whether Redis can write to its disk.", writes == {"ok"})


def _outcomes(counts: Counter[str]) -> Iterator[Metric]:
    images = {(outcome, ""): counts[outcome] for outcome in ("done", "skipped")}
    images |= {("failed", code): counts[f"{ERROR}{code}"] for code in Code}
    flags = {(flag,): counts[f"{FLAG}{flag}"] for flag in ReviewFlag}
    counter = CounterMetricFamily
    yield _family(counter, "images", "Images by outcome.", images, "outcome", "code")
    yield _family(counter, "images_flagged", "Cutouts with a review flag.", {(): counts["flagged"]})
    yield _family(counter, "image_flags", "Review flags.", flags, "flag")


def _jobs(stats: ClusterStats, queue: QueueStats) -> Iterator[Metric]:
    jobs = {(state,): count for state, count in stats.jobs.items()}
    yield _family(GaugeMetricFamily, "jobs", "Jobs by state.", jobs, "state")
    for name, metric in metrics_of(ClusterStats).items():
        yield _gauge(metric.name, metric.text, getattr(stats, name))
    yield _gauge("queue_messages", "Messages waiting.", queue.waiting)
    yield _gauge("queue_unacked_messages", "Messages held by workers.", queue.unacked)
    text = "Time since the oldest message was published."
    yield _gauge("queue_oldest_message_seconds", text, queue.age)


def _cost(stats: ClusterStats, devices: int, price: float) -> Iterator[Metric]:
    if not price:
        return
    yield _gauge("device_price_per_hour", "Configured price, in its currency.", price)
    if devices and stats.images_per_second:
        hours = 1000 / (stats.images_per_second * 3600)
        text = "Price of all workers for 1,000 images at the present speed."
        yield _gauge("cost_per_thousand_images", text, devices * price * hours)


def _build_info() -> Metric:
    version = {"version": importlib.metadata.version("bgpipe")}
    return InfoMetricFamily("bgpipe_build", "Installed version.", version)


def _workers(heartbeats: Sequence[Heartbeat]) -> Iterator[Metric]:
    workers = {(each.worker,): each.stats for each in heartbeats}
    infos = {
        key: {"device": stats.device, "model": stats.model[:12]} for key, stats in workers.items()
    }
    yield _family(InfoMetricFamily, "worker", "Device and model.", infos, "worker")
    ages = {(each.worker,): each.age for each in heartbeats}
    text = "Time since the last heartbeat."
    yield _family(GaugeMetricFamily, "worker_heartbeat_age_seconds", text, ages, "worker")
    for name, metric in METRICS.items():
        kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
        values = {key: getattr(stats, name) for key, stats in workers.items()}
        known = {key: value for key, value in values.items() if value != UNKNOWN}
        yield _family(kind, f"worker_{metric.name}", metric.text, known, "worker")
    family = HistogramMetricFamily(
        "bgpipe_worker_stage_seconds", "Duration of the stages.", labels=["worker", "stage"]
    )
    for heartbeat in heartbeats:
        for stage, histogram in sorted(heartbeat.stats.stages.items()):
            buckets = [
                ("+Inf" if bound == inf else str(bound), float(count))
                for bound, count in histogram.cumulative()
            ]
            family.add_metric([heartbeat.worker, stage], buckets, histogram.sum)
    yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"bgpipe_{name}", text, value=value)


def _family(
    kind: Callable[..., Any], name: str, text: str, values: Mapping[Any, object], *labels: str
) -> Metric:
    """Return bgpipe_NAME with one of `values` for each tuple of the values of `labels`."""
    family: Any = kind(f"bgpipe_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return cast("Metric", family)
