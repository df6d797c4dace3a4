"""Messages that come twice, and come back while their images are still worked on."""

from __future__ import annotations

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.queue import publish

from ..workers.conftest import QUEUE, Cluster, until
from .conftest import TROUBLED, dispatcher, files

pytestmark = pytest.mark.chaos

IMAGES = 40
SLOW = {
    "TEST_DECODE_SECONDS": "3",
    "BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "1",
    "BGPIPE_WORKER__LANES": "8",
}


def test_every_image_is_counted_once_however_often_its_message_comes(cluster: Cluster) -> None:
    names = [cluster.file(f"{i:02}.jpg", b"fine") for i in range(IMAGES)]
    with (
        cluster.process([TROUBLED, "--name", "a@test"], SLOW),
        cluster.process([TROUBLED, "--name", "b@test"], SLOW),
        dispatcher(cluster),
    ):
        until(lambda: len(cluster.client.keys(keys.of_worker("*"))) == 2)
        job = cluster.submit(names)
        publish(cluster.app, job, list(cluster.jobs.items.read(job, 0, IMAGES)), QUEUE)
        summary = cluster.finished(job)
        finished = cluster.client.hget(keys.of_job(job).head, "finished")
        publish(cluster.app, job, list(cluster.jobs.items.read(job, 0, IMAGES)), QUEUE)
        cluster.finished(cluster.submit([names[0]]))
    assert (summary.done, summary.failed) == (IMAGES, 0)
    assert cluster.jobs.summary(job).done == IMAGES
    assert cluster.client.hget(keys.of_job(job).head, "finished") == finished
    expected = {f"{name}.png": f"a cutout of id-{i}".encode() for i, name in enumerate(names)}
    written = {name: data.partition(b"<?xpacket")[0] for name, data in files(cluster.out).items()}
    assert written == expected
    again = cluster.client.hlen(keys.of_job(job).repeats)
    print(f"{IMAGES} images, each message sent twice: claimed more than once {again}")
