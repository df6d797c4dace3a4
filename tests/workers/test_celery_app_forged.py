"""What an attacker with access to Redis may write, and a real worker refuses."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

from PIL import Image

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.queue import TASK, publish
from bgpipe.pipeline.models.lockfile import hash_file
from bgpipe.pipeline.types import Item, Job, JobId, Preset, Recipe

from .conftest import QUEUE, SIZE, Cluster, until

CPU = ("--device", "cpu")


class Bomb:
    """Makes the folder at `path` as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def open_job(cluster: Cluster, item: Item, source: Path, out: Path) -> JobId:
    """A job as only the ledger's own writer would never write it, its message published."""
    recipe = Recipe(str(cluster.model), hash_file(cluster.model), SIZE, Preset())
    job = JobId(f"forged-{time.monotonic_ns()}")
    cluster.jobs.open(Job(job, str(source), str(out), recipe, time.time(), include=(job,)))
    cluster.jobs.add(job, [item])
    cluster.jobs.start(job)
    publish(cluster.app, job, [item], QUEUE)
    return job


def test_a_pickled_message_is_refused_unread(cluster: Cluster, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    body = pickle.dumps(((Bomb(trap), 0, "a.jpg"), {}, {}))
    headers = {"task": TASK, "id": "forged", "lang": "py", "argsrepr": "", "kwargsrepr": ""}
    with cluster.supervisor(*CPU):
        with (
            cluster.app.connection_for_write() as connection,
            cluster.app.amqp.Producer(connection, auto_declare=False) as producer,
        ):
            for says in ("application/x-python-serialize", "application/json"):
                producer.publish(
                    body,
                    routing_key=QUEUE,
                    exchange="",
                    headers=headers,
                    content_type=says,
                    content_encoding="binary",
                )
        assert cluster.finished(cluster.submit([cluster.photo("a.jpg")])).done == 1
        until(lambda: not cluster.client.exists(keys.UNACKED, QUEUE))
        assert not trap.exists()
    assert "worker ended" not in cluster.log()
    # Allowed here alone: this test wrote the bytes, and loading them proves that the message runs code.
    pickle.loads(body)
    assert trap.is_dir()


def test_forged_records_lead_nowhere(cluster: Cluster, tmp_path: Path) -> None:
    source, out = cluster.source, cluster.out
    name = cluster.photo("a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    (tmp_path / "elsewhere").mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    stolen = tmp_path / "stolen.png"
    good = Item(0, name, "a.png", "id")
    forged = [
        (source, out, Item(0, "../secret.jpg", "a.png", "id"), "E_TARGET"),
        (source, out, Item(0, name, "../stolen.png", "id"), "E_TARGET"),
        (source, out, Item(0, name, str(stolen), "id"), "E_TARGET"),
        (source, out, Item(0, name, "..\\stolen.png", "id"), "E_TARGET"),
        (source, out, Item(0, name, "link/stolen.png", "id"), "E_TARGET"),
        (tmp_path, out, Item(0, "secret.jpg", "stolen.png", "id"), "E_ACCESS"),
        (source, tmp_path, Item(0, name, "stolen.png", "id"), "E_ACCESS"),
        (source, Path(f"{out}-too"), good, "E_ACCESS"),
        (source, out / ".." / "upward", good, "E_ACCESS"),
    ]
    with cluster.supervisor(*CPU, BGPIPE_WORKER__PLACES=json.dumps([str(source), str(out)])):
        jobs = [open_job(cluster, item, source, out) for source, out, item, _ in forged]
        honest = open_job(cluster, good, source, out)
        assert cluster.finished(honest).done == 1
        for job, (*_, code) in zip(jobs, forged, strict=True):
            assert cluster.finished(job).failed == 1
            assert [failure.code for failure in cluster.jobs.items.failures(job)] == [code]
    assert [path.name for path in tmp_path.rglob("*.png")] == ["a.png"]
