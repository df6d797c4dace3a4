"""What Prometheus reads of a cluster, as the text that it parses."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Callable

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.broker.queue import make_app, publish, read_stats
from bgpipe.pipeline.errors import Code, PermanentError, UsageError
from bgpipe.pipeline.monitoring.collectors import (
    ClusterCollector,
    MonotonicTotals,
    WorkerCollector,
    serve_metrics,
)
from bgpipe.pipeline.monitoring.heartbeat import LIFE, Histogram, WorkerStats, read_heartbeats
from bgpipe.pipeline.types import Outcome

from ...support.ports import free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: bytes) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def settings(monkeypatch) -> Settings:
    monkeypatch.setenv("BGPIPE_ESTIMATE__PRICE_PER_HOUR", "3.6")
    return load_settings()


@pytest.fixture
def metric(client, settings) -> Callable[..., float | None]:
    """`metric(name, **labels)`: the number, or None where there is no such series."""
    cluster = ClusterCollector(client, settings)

    def ask(name: str, **labels: str) -> float | None:
        found = samples(generate_latest(cluster))
        return found.get((f"bgpipe_{name}", frozenset(labels.items())))

    return ask


def write_heartbeat(client, name: str, **stats: object) -> None:
    client.hset(keys.of_worker(name), mapping=WorkerStats(**stats).write())
    client.expire(keys.of_worker(name), LIFE)


def test_outcomes_are_counters_by_outcome_and_code(metric, job_store, open_job) -> None:
    job = open_job(3)
    job_store.items.settle(job, Outcome.done(0))
    job_store.items.settle(job, Outcome.failed(1, PermanentError(Code.EMPTY, "no bytes")))
    assert metric("images_total", outcome="done", code="") == 1
    assert metric("images_total", outcome="failed", code="E_EMPTY") == 1
    assert metric("images_total", outcome="failed", code="E_DEVICE") == 0  # known before it happens
    assert metric("images_unsettled") == 1
    assert metric("jobs", state="running") == 1


def test_the_queue_tells_what_waits_what_is_held_and_how_old_it_is(
    metric, client, items, settings, redis_url
) -> None:
    assert metric("queue_oldest_message_seconds") == 0
    with make_app(settings, redis_url) as app:
        publish(app, "spring", items(3), settings.queue.name)
        until = read_stats(client, settings.queue.name)
        assert (until.waiting, until.unacked) == (3, 0)
        with app.connection_for_read() as connection:
            queue = connection.SimpleQueue(app.amqp.queues[settings.queue.name])
            queue.get(timeout=5)
            assert metric("queue_messages") == 2
            assert metric("queue_unacked_messages") == 1
            assert metric("queue_oldest_message_seconds") >= until.age
            queue.close()


def test_a_foreign_message_has_no_age(client, settings) -> None:
    client.lpush(settings.queue.name, "not ours")
    assert read_stats(client, settings.queue.name).age == 0.0


def test_workers_are_labelled_by_name_and_the_successor_counts(metric, client) -> None:
    stage = Histogram()
    stage.observe(0.3)
    write_heartbeat(client, "cpu0@host/new", lanes=4, restarts=1, stages={"decode": stage})
    write_heartbeat(client, "cpu0@host/old", lanes=2)
    client.expire(keys.of_worker("cpu0@host/old"), LIFE - 10)
    assert metric("workers") == 1
    assert metric("worker_lanes", worker="cpu0@host") == 4
    assert metric("worker_restarts_total", worker="cpu0@host") == 1
    labels = {"worker": "cpu0@host", "stage": "decode"}
    assert metric("worker_stage_seconds_bucket", le="0.25", **labels) == 0
    assert metric("worker_stage_seconds_bucket", le="+Inf", **labels) == 1
    assert metric("worker_stage_seconds_sum", **labels) == 0.3
    age = metric("worker_heartbeat_age_seconds", worker="cpu0@host")
    assert age is not None
    assert 0 <= age < LIFE


def test_a_worker_exports_the_values_of_its_heartbeat(client, settings) -> None:
    stats = WorkerStats(device="cpu", lanes=3, images=7, disk_free=5, stages={"write": Histogram()})
    client.hset(keys.of_worker("cpu0@host/1"), mapping=stats.write())
    client.expire(keys.of_worker("cpu0@host/1"), LIFE)
    own = samples(generate_latest(WorkerCollector("cpu0@host", lambda: stats)))
    seen = samples(generate_latest(ClusterCollector(client, settings)))
    age = ("bgpipe_worker_heartbeat_age_seconds", frozenset({("worker", "cpu0@host")}))
    assert own.keys() <= seen.keys()
    assert {name: seen[name] for name in own if name != age} == {
        name: value for name, value in own.items() if name != age
    }


def test_a_heartbeat_of_another_version_is_read_as_far_as_it_goes(client) -> None:
    other = {"images": 5, "later": "x", "stage:decode": "[0.5, 1, 2]"}
    client.hset(keys.of_worker("gpu0@host/1"), mapping=other)
    (seen,) = read_heartbeats(client)
    assert (seen.worker, seen.stats) == ("gpu0@host", WorkerStats(images=5))


def test_the_cost_of_a_thousand_follows_from_price_workers_and_pace(
    metric, client, job_store, open_job
) -> None:
    assert metric("cost_per_thousand_images") is None
    job = open_job(4)
    job_store.items.settle(job, Outcome.done(0))
    write_heartbeat(client, "gpu0@host/1")
    write_heartbeat(client, "gpu1@host/1")
    client.hincrbyfloat(keys.of_job(job).head, "spent", 1e6)  # so long that the pace stands still
    pace = metric("images_per_second")
    assert pace == pytest.approx(1e-6, rel=1e-3)
    assert metric("cost_per_thousand_images") == pytest.approx(
        2 * 3.6 / 3600 * 1000 / pace, rel=1e-3
    )


def test_a_counter_does_not_go_back_when_redis_forgets_its_last_second() -> None:
    monotonic = MonotonicTotals()
    assert monotonic.raise_to("1.0", Counter({"done": 10}))["done"] == 10
    assert monotonic.raise_to("1.0", Counter({"done": 8}))["done"] == 10
    assert monotonic.raise_to("1.0", Counter({"done": 12}))["done"] == 12


def test_a_counter_begins_anew_with_an_emptied_redis() -> None:
    monotonic = MonotonicTotals()
    monotonic.raise_to("1.0", Counter({"done": 10, "skipped": 1}))
    fresh = monotonic.raise_to("2.0", Counter({"done": 1}))
    assert (fresh["done"], fresh["skipped"]) == (1, 0)


def test_without_redis_the_endpoint_says_just_that_and_at_once(
    redis_server_process, settings
) -> None:
    with connect(redis_server_process.url, retry_seconds=0) as client:
        cluster = ClusterCollector(client, settings)
        found = samples(generate_latest(cluster))
        assert found[("bgpipe_redis_up", frozenset())] == 1
        redis_server_process.kill()
        found = samples(generate_latest(cluster))
    names = {name for name, _ in found}
    assert names == {"bgpipe_build_info", "bgpipe_redis_up"}
    assert found[("bgpipe_redis_up", frozenset())] == 0


def test_the_endpoint_answers_while_it_is_open_and_frees_its_port(client, settings) -> None:
    port = free_port()
    for _ in range(2):
        with (
            serve_metrics(ClusterCollector(client, settings), "127.0.0.1", port),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
        ):
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert b"bgpipe_redis_up 1.0" in answer.read()


def test_an_address_that_is_taken_is_a_usage_error(client, settings) -> None:
    port = free_port()
    cluster = ClusterCollector(client, settings)
    with (
        serve_metrics(cluster, "127.0.0.1", port),
        pytest.raises(UsageError, match="choose another address"),
        serve_metrics(cluster, "127.0.0.1", port),
    ):
        pass
