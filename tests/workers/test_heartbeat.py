"""A worker's counters: one object for counting, heartbeat and metrics."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.monitoring.collectors import WorkerCollector
from bgpipe.pipeline.monitoring.heartbeat import METRICS, WorkerStats, read_heartbeats
from bgpipe.workers.heartbeat import WorkerCounters, is_alive, sending_heartbeats

from ..support.threads import kill_thread
from .conftest import Cluster, until

WORKER = "cpu0@host/1"


@pytest.fixture
def counters() -> WorkerCounters:
    return WorkerCounters(WorkerStats("cpu", lanes=3, batch=2, restarts=1))


def test_changes_of_one_update_are_seen_together(counters: WorkerCounters) -> None:
    with ThreadPoolExecutor(1) as observer:
        with counters.update() as stats:
            stats.steps += 1
            snapshot = observer.submit(counters.snapshot)
            with pytest.raises(TimeoutError):
                snapshot.result(0.1)
            stats.device_images += 8
        assert (snapshot.result(30).steps, snapshot.result(30).device_images) == (1, 8)


def test_an_outcome_counts_the_image_and_its_stages(counters: WorkerCounters) -> None:
    counters.record_outcome(1.0, {"decode": 0.5})
    counters.record_outcome(2.0, {"decode": 0.5, "write": 0.1})
    stats = counters.snapshot()
    assert (stats.device, stats.lanes, stats.restarts, stats.images) == ("cpu", 3, 1, 2)
    counts = {name: stage.count for name, stage in stats.stages.items()}
    assert counts == {"image": 2, "decode": 2, "write": 1}
    assert stats.stages["image"].sum == 3.0


def test_a_snapshot_does_not_change_with_the_worker(counters: WorkerCounters) -> None:
    counters.record_outcome(1.0, {})
    before = counters.snapshot([2.0, 7.0])
    counters.record_outcome(1.0, {})
    assert (before.images, before.stages["image"].count) == (1, 1)
    assert (before.in_flight, before.oldest) == (2, 7.0)
    assert before.beat >= before.progress > 0
    assert (counters.snapshot().in_flight, counters.snapshot().oldest) == (0, 0.0)


def test_every_field_that_is_counted_reaches_the_heartbeat_and_the_metrics(
    cluster: Cluster, counters: WorkerCounters
) -> None:
    client = cluster.client
    with counters.update() as stats:
        for value, field in enumerate(METRICS, 10):
            setattr(stats, field, value)
    expected = counters.snapshot([3.0])
    with sending_heartbeats(client, WORKER, lambda: expected):
        (heartbeat,) = read_heartbeats(client)
        assert heartbeat.stats == expected
        assert is_alive(client, WORKER)
    assert not client.exists(keys.of_worker(WORKER))
    text = generate_latest(WorkerCollector("cpu0@host", lambda: expected)).decode()
    for field, metric in METRICS.items():
        suffix = "_total" if metric.is_counter else ""
        value = float(getattr(expected, field))
        line = f'bgpipe_worker_{metric.name}{suffix}{{worker="cpu0@host"}} '
        (sample,) = (sample for sample in text.splitlines() if sample.startswith(line))
        assert float(sample.removeprefix(line)) == value


def test_free_space_is_that_of_the_last_target_and_unknown_for_a_bucket(
    counters: WorkerCounters, tmp_path: Path
) -> None:
    counters.record_write(str(tmp_path))
    assert counters.snapshot().disk_free > 0
    counters.record_write("s3://bucket/cutouts")
    assert counters.snapshot().disk_free == -1
    text = generate_latest(WorkerCollector("cpu0@host", counters.snapshot)).decode()
    assert "bgpipe_worker_disk_free_bytes{" not in text


def test_a_heartbeat_that_is_killed_or_meets_a_damaged_key_beats_on(
    cluster: Cluster, counters: WorkerCounters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgpipe.workers.heartbeat.PERIOD", 0.1)
    client, key = cluster.client, keys.of_worker(WORKER)
    with sending_heartbeats(client, WORKER, counters.snapshot):
        for end in (lambda: kill_thread("heartbeat"), lambda: client.set(key, "no hash")):
            end()
            until(lambda: "heartbeat" in {thread.name for thread in threading.enumerate()}, 5)
            client.delete(key)
            until(lambda: is_alive(client, WORKER), 10)
