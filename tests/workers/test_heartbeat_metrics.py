"""What a worker process tells while it works: its own endpoint, and one event for each outcome."""

from __future__ import annotations

import json
import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from bgpipe.pipeline.inference.devices import WorkerDevice
from bgpipe.workers.supervisor import make_workers

from ..support.ports import free_port
from .conftest import Cluster, until

CPU = ("--device", "cpu")
STAGES = {"read", "measure", "room", "decode", "resize", "infer", "refine", "encode", "write"}


def test_a_worker_tells_prometheus_and_its_log_how_each_image_ended(cluster: Cluster) -> None:
    port = free_port()
    options = {
        "BGPIPE_METRICS__WORKER": f"127.0.0.1:{port}",
        "BGPIPE_LOG__FORMAT": "json",
        "BGPIPE_WORKER__BATCH": "2",
    }
    with cluster.supervisor(*CPU, "--lanes", "3", **options):
        job = cluster.submit([cluster.photo("one 1.jpg"), cluster.file("empty.jpg", b"")])
        cluster.finished(job)
        until(lambda: "image done" in cluster.log() and "image failed" in cluster.log())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            families = {f.name: f for f in text_string_to_metric_families(answer.read().decode())}
    name = f"cpu0@{socket.gethostname()}"
    plain = {name: f.samples[0].value for name, f in families.items() if f.samples}
    assert plain["bgpipe_worker_lanes"] == 3
    assert plain["bgpipe_worker_batch_size"] == 2
    assert plain["bgpipe_worker_images"] == 2
    assert plain["bgpipe_worker_device_images"] == plain["bgpipe_worker_device_steps"] == 1
    assert min(plain["bgpipe_worker_memory_bytes"], plain["bgpipe_worker_disk_free_bytes"]) > 0
    counts = {
        sample.labels["stage"]: sample.value
        for sample in families["bgpipe_worker_stage_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts["image"] == counts["read"] == 2
    assert {stage for stage in STAGES if counts.get(stage)} == STAGES
    events = [json.loads(line) for line in cluster.log().splitlines() if line.startswith("{")]
    done = next(event for event in events if event["event"] == "image done")
    assert done.keys() >= STAGES | {"seconds", "attempt"}
    assert [done[field] for field in ("job", "index", "key", "code", "worker")] == [
        job,
        0,
        "one 1.jpg",
        None,
        name,
    ]
    failed = next(event for event in events if event["event"] == "image failed")
    assert (failed["index"], failed["key"], failed["code"]) == (1, "empty.jpg", "E_EMPTY")
    assert failed["read"] >= 0


def test_each_device_of_a_machine_has_a_port_of_its_own() -> None:
    devices = [WorkerDevice(f"cuda:{index}", f"GPU-{index}") for index in range(3)]
    workers = make_workers(devices, shared_host=False, metrics="127.0.0.1:9641")
    assert [worker.metrics for worker in workers] == [f"127.0.0.1:{9641 + i}" for i in range(3)]
    assert {worker.metrics for worker in make_workers(devices, shared_host=False)} == {""}
