"""A machine with eight GPUs: one is dead, one is divided, and one is removed while its worker runs."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.monitoring.heartbeat import Heartbeat, read_heartbeats

from ..support.gpu_host import GpuHost, divided, gpu
from ..support.ports import free_port
from .conftest import Cluster, until

TROUBLED = Path(__file__).with_name("troubled_worker.py")
GPUS = (gpu(0), "GpuIsLost", divided(2, "3g.71gb", None, "1g.18gb"), *map(gpu, range(3, 8)))
LABELS = ["gpu0", "gpu2.0", "gpu2.2", "gpu3", "gpu4", "gpu5", "gpu6", "gpu7"]
IMAGES = 80


def heartbeats(cluster: Cluster) -> dict[str, Heartbeat]:
    """Those of the workers that live, by the name of their device."""
    return {beat.worker.partition("@")[0]: beat for beat in read_heartbeats(cluster.client)}


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def doctor(cluster: Cluster, environment: dict[str, str]) -> dict[str, dict[str, str]]:
    """The checks that it made, by their names."""
    done = subprocess.run(
        [Path(sys.executable).with_name("bgpipe"), "--json", "doctor"],
        env=cluster.environment(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    return {check["what"]: check for check in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
def test_each_gpu_has_one_worker_whatever_becomes_of_the_others(cluster: Cluster) -> None:
    host = GpuHost(cluster.folder / "nvml.json")
    host.set(*GPUS)
    first = free_port()
    ports = range(first, first + len(LABELS))
    environment = host.environment | {
        "BGPIPE_METRICS__WORKER": f"127.0.0.1:{first}",
        "BGPIPE_WORKER__RESTART_DELAY": "0.1",
        "BGPIPE_WORKER__START_ATTEMPTS": "2",
        "BGPIPE_WORKER__LANES": "1",
        "TEST_DECODE_SECONDS": "0.2",
    }
    images = [cluster.file(f"{index}.jpg", b"") for index in range(IMAGES)]
    with cluster.process([TROUBLED, "--gpus"], environment) as supervisor:
        until(lambda: sorted(heartbeats(cluster)) == LABELS)
        assert "GPU left out: cuda:1: GpuIsLost" in cluster.log()
        checks = doctor(cluster, environment)
        assert "cuda:1 GpuIsLost, cuda:2.0 NVIDIA H200 MIG 3g.71gb" in checks["devices"]["detail"]
        assert checks["devices"]["level"] == "warning"
        assert all(
            f"{label}@{socket.gethostname()}" in checks["workers"]["detail"] for label in LABELS
        )

        host.set(*GPUS[:6], "GpuIsLost", GPUS[7])  # its worker finds out by the next image
        assert cluster.finished(cluster.submit(images)).done == IMAGES
        until(lambda: sorted(heartbeats(cluster)) == [each for each in LABELS if each != "gpu6"])
        until(lambda: cluster.log().count("no such GPU: GPU-6666-aaaa") >= 4)
        assert supervisor.poll() is None
        done = [
            int(re.findall(r"bgpipe_worker_images_total.* (\d+)", metrics(port))[0])
            for port in ports
            if port != ports[6]
        ]
        assert min(done) > 0
        assert sum(done) == IMAGES

        host.set(*GPUS)
        until(lambda: sorted(heartbeats(cluster)) == LABELS)
        restarts = {label: beat.stats.restarts for label, beat in heartbeats(cluster).items()}
        assert restarts.pop("gpu6") >= 3
        assert not any(restarts.values())

        job = cluster.submit(images)
        until(lambda: cluster.jobs.summary(job).done >= 1)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(60) == 0
    assert heartbeats(cluster) == {}
    summary = cluster.jobs.summary(job)
    assert (summary.running, summary.failed) == (0, 0)
    assert not cluster.client.exists(keys.UNACKED)
