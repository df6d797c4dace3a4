"""One image among 200 that takes down or holds up whatever works on it."""

from __future__ import annotations

import random

import pytest

from bgpipe.pipeline.broker import keys

from ..workers.conftest import Cluster
from .conftest import TROUBLED, dispatcher, failures, files

pytestmark = pytest.mark.chaos

IMAGES = 200
# Redelivered soon, restarted soon, given up soon: the rest is as it ships.
QUICK = {
    "BGPIPE_QUEUE__VISIBILITY_TIMEOUT": "3",
    "BGPIPE_WORKER__RESTART_DELAY": "0.1",
    "BGPIPE_WORKER__LANES": "6",
    "BGPIPE_LIMITS__STEP": "2",
    "BGPIPE_LIMITS__DECODE": "2",
}


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        ("deadly", "E_WORKER_LOST"),
        ("stuck", "E_TIMEOUT"),
        ("stalled", "E_TIMEOUT"),
        ("lost", "E_DEVICE"),
    ],
)
def test_a_troublesome_image_is_given_up_and_no_innocent_with_it(
    cluster: Cluster, trouble: str, code: str, dice: random.Random
) -> None:
    names = [cluster.file(f"{i:03}.jpg", b"fine") for i in range(IMAGES)]
    place = dice.randrange(IMAGES)
    names[place] = cluster.file("trouble.jpg", trouble.encode())
    batches = {"BGPIPE_WORKER__BATCH": "4"}
    with (
        cluster.process([TROUBLED, "--supervised"], QUICK | batches),
        dispatcher(cluster),
    ):
        job = cluster.submit(names)
        summary = cluster.finished(job)
    assert (summary.done, summary.failed) == (IMAGES - 1, 1)
    assert failures(cluster, job) == {"trouble.jpg": code}
    assert len(files(cluster.out)) == IMAGES - 1
    repeats = {int(k): int(v) for k, v in cluster.client.hgetall(keys.of_job(job).repeats).items()}
    print(f"{trouble}: attempts of those that needed several: {repeats}")
    # The images beside it ran alone after that, once.
    assert all(repeats[index] == 1 for index in repeats if index != place)
