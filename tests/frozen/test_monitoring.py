"""What monitoring reads: metrics of cluster and worker, and the fields of the log."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from bgpipe.config.settings import Settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.logging import EventFormatter, JsonFormatter
from bgpipe.pipeline.monitoring.collectors import ClusterCollector, WorkerCollector
from bgpipe.pipeline.types import Item, Outcome

from ..e2e.conftest import Bgpipe
from ..support.idle_cluster import until
from .snapshot import assert_frozen
from .test_redis import PLAIN, VITALS

WEIGHTS = Path(__file__).with_name("upgrade") / "weights.safetensors"
PHOTO = Path(__file__).with_name("upgrade") / "content/object-06.jpg"
OURS = ("image done", "image failed", "worker starts", "worker ends", "loading model")


def families(collector: Collector) -> dict[str, Any]:
    return {metric.name: family(metric) for metric in collector.collect()}


def family(metric: Metric) -> dict[str, Any]:
    samples = {sample.name: sorted(sample.labels) for sample in metric.samples}
    assert samples, f"nothing of it is seen: {metric.name}"
    return {"type": metric.type, "help": metric.documentation, "samples": samples}


def test_metrics_of_a_cluster(client: RedisClient, settings: Settings) -> None:
    estimate = settings.estimate.model_copy(update={"price_per_hour": 2.5})
    priced = settings.model_copy(update={"estimate": estimate})
    job_store = JobStore(client)
    job_store.open(PLAIN)
    job_store.add(
        PLAIN.id, [Item(index, f"{index}.jpg", f"{index}.png", "1-1") for index in range(2)]
    )
    job_store.start(PLAIN.id)
    job_store.items.settle(PLAIN.id, Outcome.done(0))
    client.hincrbyfloat(keys.of_job(PLAIN.id).head, "spent", 10)
    client.hset(keys.of_worker("gpu0@host/1"), mapping=VITALS.write())
    client.expire(keys.of_worker("gpu0@host/1"), 20)
    assert_frozen("metrics_cluster", families(ClusterCollector(client, priced)))


def test_metrics_of_a_worker() -> None:
    assert_frozen("metrics_worker", families(WorkerCollector("gpu0@host", lambda: VITALS)))


def record(exc_info: Any = None) -> logging.LogRecord:
    made = logging.LogRecord("bgpipe", logging.WARNING, "", 0, "image failed", None, exc_info)
    made.created = 1.7e9
    made.fields = {"key": "a b.jpg", "code": None, "seconds": 0.123456789, "index": 3}
    return made


def test_lines_of_the_log() -> None:
    common = {"worker": "gpu0@host"}
    lines = {
        "text": EventFormatter(common).format(record()),
        "json": JsonFormatter(common).format(record()),
    }
    assert_frozen("log_lines", lines)


def test_a_traceback_is_a_field_of_its_own() -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        line = json.loads(JsonFormatter({}).format(record(sys.exc_info())))
    assert line.pop("traceback").endswith("ValueError: odd")
    assert list(line) == ["time", "level", "event", "key", "code", "seconds", "index"]


def test_events_of_a_worker_and_their_fields(tmp_path: Path) -> None:
    """Of one image that is done and one that is not, as JSON."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(PHOTO.read_bytes())
    (photos / "empty.jpg").write_bytes(b"")
    bgpipe = Bgpipe(tmp_path)
    done = bgpipe("submit", photos, "--model", WEIGHTS, BGPIPE_LOG__FORMAT="json")
    assert done.returncode == 1, done.stderr
    log = tmp_path / "state/bgpipe/worker.log"
    until(lambda: "worker ends" in log.read_text(encoding="utf-8"))
    text = log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    fields = {line["event"]: sorted(line) for line in lines if line["event"] in OURS}
    assert {"image done", "image failed", "worker ends", "worker starts"} <= fields.keys()
    assert_frozen("log_events", dict(sorted(fields.items())))
