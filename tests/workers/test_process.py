"""What a worker does with images, good and bad, and with messages that are none of ours."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from PIL import Image

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.queue import TASK, publish
from bgpipe.pipeline.types import JobState

from .conftest import QUEUE, Cluster, until

CPU = ("--device", "cpu")


def failures(cluster: Cluster, job: Any) -> dict[str, tuple[str, int]]:
    return {f.source: (f.code, f.attempts) for f in cluster.jobs.items.failures(job)}


@pytest.mark.usefixtures("shared_worker")
def test_good_images_become_cutouts_and_bad_ones_dead_letters(cluster: Cluster) -> None:
    good = [cluster.photo(f"photo {i}.jpg") for i in range(5)]
    bad = [cluster.file("empty.jpg", b""), cluster.file("text.jpg", b"no image"), "missing.jpg"]
    job = cluster.submit([*good, *bad])
    summary = cluster.finished(job)
    assert (summary.done, summary.failed) == (5, 3)
    assert failures(cluster, job) == {
        "empty.jpg": ("E_EMPTY", 1),
        "text.jpg": ("E_NOT_IMAGE", 1),
        "missing.jpg": ("E_MISSING", 1),
    }
    assert sorted(path.name for path in cluster.out.iterdir()) == [f"{name}.png" for name in good]
    for index, name in enumerate(good):
        with Image.open(cluster.out / f"{name}.png") as cutout:
            assert (cutout.mode, cutout.size) == ("RGBA", (320, 240))
            assert cutout.info["bgpipe:source"] == f"id-{index}"
            recipe = json.loads(cutout.info["bgpipe:recipe"])
            assert recipe["hash"] == cluster.jobs.job(job).recipe.hash
    until(lambda: cluster.log().count("image done") == 5)
    assert cluster.log().count("image failed") == 3
    assert "Traceback" not in cluster.log()


@pytest.mark.usefixtures("shared_worker")
def test_other_weights_than_the_jobs_are_refused_after_all_attempts(cluster: Cluster) -> None:
    name = cluster.photo("photo.jpg")
    job = cluster.submit([name], weights="0" * 64)
    assert cluster.finished(job).failed == 1
    (failure,) = cluster.jobs.items.failures(job)
    assert (failure.code, failure.attempts) == ("E_INTERNAL", 3)
    assert "differs: the job wants 0000" in failure.detail
    assert not list(cluster.out.iterdir())


@pytest.mark.usefixtures("shared_worker")
def test_a_target_that_leaves_the_folder_is_a_dead_letter(cluster: Cluster) -> None:
    (cluster.out / "photo.jpg.png").mkdir()
    name = cluster.photo("photo.jpg")
    job = cluster.submit([name])
    assert cluster.finished(job).failed == 1
    assert failures(cluster, job) == {"photo.jpg": ("E_TARGET", 1)}


@pytest.mark.usefixtures("shared_worker")
def test_messages_with_unknown_names_are_harmless(cluster: Cluster) -> None:
    names = [cluster.photo("a.jpg"), cluster.photo("b.jpg")]
    job = cluster.submit(names)
    for arguments in (
        ("unknown-job", 0, "a.jpg"),
        (job, 99, "a.jpg"),
        (job, "0", "a.jpg"),
        (job,),
        ("../escape", 0, "a.jpg"),
    ):
        cluster.app.send_task(TASK, arguments, queue="bgpipe")
    # As an older or a newer version may write them.
    cluster.app.send_task(TASK, (), {"job": job, "key": "a.jpg"}, queue="bgpipe")
    cluster.app.send_task("bgpipe.remove_backgrounds", (job, 0, "a.jpg"), queue="bgpipe")
    assert cluster.finished(job).done == 2
    assert cluster.finished(cluster.submit(names)).done == 2
    until(lambda: not cluster.client.exists(keys.UNACKED, "bgpipe"))
    until(lambda: cluster.log().count("message dropped") == 3)
    assert "unknown job: unknown-job" in cluster.log()
    assert cluster.client.llen(keys.DEAD) == 4


@pytest.mark.usefixtures("shared_worker")
def test_a_message_that_is_no_task_at_all_is_named_and_dropped(cluster: Cluster) -> None:
    names = [cluster.photo("a.jpg")]
    with cluster.app.connection_for_write() as connection:
        queue = connection.SimpleQueue("bgpipe")
        queue.put("neither", serializer="json")
        queue.put(b"no text", content_type="application/octet-stream")
        queue.close()
    assert cluster.finished(cluster.submit(names)).done == 1
    until(lambda: not cluster.client.exists(keys.UNACKED, "bgpipe"))
    assert "worker ended" not in cluster.log()


@pytest.mark.usefixtures("shared_worker")
def test_books_that_cannot_be_read_cost_their_own_messages_only(cluster: Cluster) -> None:
    names = [cluster.photo("a.jpg")]
    broken = cluster.submit(names, published=False)
    cluster.client.delete(keys.of_job(broken).running)
    cluster.client.set(keys.of_job(broken).running, "not a hash")
    cluster.app.send_task(TASK, (broken, 0, "a.jpg"), queue="bgpipe")
    until(lambda: "a key of the ledger is damaged" in cluster.log())
    cluster.jobs.cancel(broken)
    assert cluster.finished(cluster.submit(names)).done == 1
    until(lambda: not cluster.client.exists(keys.UNACKED, "bgpipe"))
    assert "worker ended" not in cluster.log()


@pytest.mark.usefixtures("shared_worker")
def test_a_message_about_another_image_than_the_ledgers_does_nothing(cluster: Cluster) -> None:
    name = cluster.photo("a.jpg")
    job = cluster.submit([name], published=False)
    cluster.app.send_task(TASK, (job, 0, "b.jpg"), queue="bgpipe")
    until(lambda: "another one: a.jpg" in cluster.log())
    assert not list(cluster.out.iterdir())
    cluster.app.send_task(TASK, (job, 0, name), queue="bgpipe")
    assert cluster.finished(job).done == 1


@pytest.mark.usefixtures("shared_worker")
def test_an_image_that_every_worker_died_of_is_given_up(cluster: Cluster) -> None:
    names = [cluster.photo("deadly.jpg"), cluster.photo("fine.jpg")]
    job = cluster.submit(names, published=False)
    for _ in range(3):
        assert cluster.jobs.items.claim(job, 0, "a worker that dies")
    publish(cluster.app, job, list(cluster.jobs.items.read(job, 0, 2)), QUEUE)
    summary = cluster.finished(job)
    assert (summary.done, summary.failed) == (1, 1)
    assert failures(cluster, job) == {"deadly.jpg": ("E_WORKER_LOST", 4)}


@pytest.mark.usefixtures("shared_worker")
def test_a_settled_image_and_a_cancelled_job_are_left_alone(cluster: Cluster) -> None:
    name = cluster.photo("photo.jpg")
    settled = cluster.submit([name])
    cluster.finished(settled)
    (cluster.out / "photo.jpg.png").unlink()
    cancelled = cluster.submit([name], published=False)
    cluster.jobs.cancel(cancelled)
    for job in (settled, cancelled):
        cluster.app.send_task(TASK, (job, 0, name), queue=QUEUE)
    # More images than there are lanes: as they are done, what came before them is done with too.
    later = [cluster.photo(f"later {n}.jpg") for n in range(6)]
    cluster.finished(cluster.submit(later))
    until(lambda: not cluster.client.exists(keys.UNACKED, QUEUE))
    assert sorted(path.name for path in cluster.out.iterdir()) == [f"{n}.png" for n in later]
    assert cluster.jobs.summary(settled).state == JobState.FINISHED
    assert cluster.jobs.summary(cancelled).queued == 1


@pytest.mark.usefixtures("shared_worker")
def test_celery_sees_one_slot_with_lanes_around_it(cluster: Cluster) -> None:
    (stats,) = cluster.app.control.inspect().stats().values()
    assert stats["pool"]["max-concurrency"] == 1
    assert stats["pool"]["lanes"] == 5
    assert stats["prefetch_count"] == 10


def test_the_heartbeat_tells_of_progress_and_ends_with_the_worker(cluster: Cluster) -> None:
    with cluster.supervisor(*CPU, "--lanes", "5"):
        (key,) = cluster.client.keys(keys.of_worker(f"cpu0@{socket.gethostname()}/*"))
        cluster.finished(cluster.submit([cluster.photo("photo.jpg")]))
        until(lambda: cluster.client.hget(key, "images") == b"1")
        beat = cluster.client.hgetall(key)
        assert 0 < cluster.client.ttl(key) <= 20
    assert (beat[b"device"], beat[b"lanes"]) == (b"cpu", b"5")
    assert len(beat[b"model"]) == 64
    assert (beat[b"steps"], beat[b"in_flight"], float(beat[b"oldest"])) == (b"1", b"0", 0)
    assert float(beat[b"beat"]) >= float(beat[b"progress"]) > 0
    assert float(beat[b"device_seconds"]) > 0
    assert {name for name in beat if name.startswith(b"stage:")} >= {b"stage:read", b"stage:write"}
    assert min(int(beat[b"memory"]), int(beat[b"disk_free"])) > 0
    assert not cluster.client.exists(key)
