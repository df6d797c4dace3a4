"""Redis is away for longer than a worker waits: what its workers had by then blocks no job."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack

import pytest

from bgpipe.pipeline.broker import keys

from ..support.redis_server import RedisServer
from ..workers.conftest import Cluster, until
from .conftest import TROUBLED, dispatcher

pytestmark = pytest.mark.chaos

IMAGES = 90
AWAY = (32.0, 52.0)
"""Seconds, from and to."""
SOON = 40.0
"""Seconds, far below the visibility timeout."""
SLOW = {"TEST_DECODE_SECONDS": "2", "BGPIPE_WORKER__LANES": "4"}


def test_a_job_goes_on_at_once_after_a_long_outage(
    fragile: Cluster, redis_server_process: RedisServer, dice: random.Random
) -> None:
    away = dice.uniform(*AWAY)
    names = [fragile.file(f"{i:02}.jpg", b"fine") for i in range(IMAGES)]
    with ExitStack() as stack:
        for name in ("a", "b", "c"):
            stack.enter_context(fragile.process([TROUBLED, "--name", f"{name}@test"], SLOW))
        until(lambda: len(fragile.client.keys(keys.of_worker("*"))) == 3)
        stack.enter_context(dispatcher(fragile))
        job = fragile.submit(names)
        until(lambda: fragile.jobs.summary(job).done >= IMAGES // 6)
        redis_server_process.kill()
        time.sleep(away)
        redis_server_process.start()
        began = time.monotonic()
        summary = fragile.finished(job)
        seconds = time.monotonic() - began
    assert (summary.done, summary.failed) == (IMAGES, 0)
    print(f"{IMAGES} images done {seconds:.0f} s after an outage of {away:.0f} s")
    assert seconds < SOON
