"""Who may work on an image, and who is charged when a worker dies."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bgpipe.config.presets import Preset
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import connect
from bgpipe.pipeline.errors import RedisUnavailable
from bgpipe.pipeline.jobs.items import ClaimOwner
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Item, Job, JobId, Outcome, Recipe
from bgpipe.workers.budget import Budget
from bgpipe.workers.claims import LANES, ClaimedElsewhere, ClaimManager

from ..support.redis_server import RedisServer
from .conftest import Cluster, until

OURS = "cpu0@here/aaaaaa"
DEAD = "cpu0@here/dddddd"


@pytest.fixture
def job(cluster: Cluster) -> JobId:
    return cluster.submit(["a.jpg", "b.jpg", "c.jpg"], weights="0" * 64, published=False)


def claims_of(cluster: Cluster, worker: str = OURS, living: tuple[str, ...] = ()) -> ClaimManager:
    return ClaimManager(cluster.jobs.items, worker, living.__contains__)


def test_unclaimed_images_are_claimed_side_by_side(cluster: Cluster, job: JobId) -> None:
    ours = claims_of(cluster)
    with ours.claim(job, 0, "a.jpg") as first, ours.claim(job, 1, "b.jpg") as second:
        assert first
        assert second
        assert (first.attempt, first.predecessor) == (1, None)
        assert len(ours.ages()) == 2
    assert not ours.ages()


def test_an_image_in_a_living_hand_is_left_there_and_not_charged(
    cluster: Cluster, job: JobId
) -> None:
    ours, theirs = claims_of(cluster, living=("gpu0@there/1",)), claims_of(cluster, "gpu0@there/1")
    with theirs.claim(job, 0, "a.jpg"):
        with pytest.raises(ClaimedElsewhere, match="gpu0@there/1"), ours.claim(job, 0, "a.jpg"):
            pass
        with pytest.raises(ClaimedElsewhere, match="of this worker"), theirs.claim(job, 0, "a.jpg"):
            pass
    assert not cluster.client.exists(keys.of_job(job).repeats)


def test_a_claim_whose_end_the_ledger_was_not_there_for_is_simply_taken_up(
    cluster: Cluster, job: JobId
) -> None:
    ours = claims_of(cluster)
    with ours.claim(job, 0, "a.jpg"):
        pass  # neither settled nor released
    with ours.claim(job, 0, "a.jpg") as claim:
        assert claim
        assert claim.predecessor is None


def test_an_image_whose_worker_died_is_alone_and_a_killer_if_it_was_so_before(
    cluster: Cluster, job: JobId
) -> None:
    cluster.jobs.items.claim(job, 0, DEAD)
    with claims_of(cluster, "cpu0@here/second").claim(job, 0, "a.jpg") as claim:
        assert claim
        assert (claim.attempt, claim.predecessor) == (2, ClaimOwner(DEAD, redelivered=False))
    with claims_of(cluster, "cpu0@here/third").claim(job, 0, "a.jpg") as claim:
        assert claim
        assert (claim.attempt, claim.predecessor) == (
            3,
            ClaimOwner("cpu0@here/second", redelivered=True),
        )


def test_a_suspect_waits_until_the_others_are_done_and_is_not_charged_for_waiting(
    cluster: Cluster, job: JobId
) -> None:
    ours, entered = claims_of(cluster), threading.Event()
    cluster.jobs.items.claim(job, 0, DEAD)

    def suspect() -> bool:
        with ours.claim(job, 0, "a.jpg") as claim:
            entered.set()
            return claim is not None and claim.predecessor is not None

    with ThreadPoolExecutor(1) as lane:
        with ours.claim(job, 1, "b.jpg"):
            alone = lane.submit(suspect)
            until(lambda: len(ours.ages()) == 2)
            assert not entered.wait(0.3)
            # Were this worker to die now, the suspect would be where it was.
            assert not cluster.client.exists(keys.of_job(job).repeats)
            assert cluster.jobs.items.claims(job)[0] == DEAD
        assert alone.result(30)


def test_an_image_settled_while_it_waited_is_not_claimed(cluster: Cluster, job: JobId) -> None:
    ours = claims_of(cluster)
    cluster.jobs.items.claim(job, 0, DEAD)
    cluster.jobs.items.settle(job, Outcome.done(0))
    with ours.claim(job, 0, "a.jpg") as claim:
        assert claim is None


def test_no_lane_runs_beside_one_that_claims_them_all() -> None:
    lanes_free, seen = Budget(LANES), list[tuple[str, int]]()
    inside, lock = [0], threading.Lock()

    def enter(kind: str) -> None:
        with lanes_free.claim(LANES if kind == "alone" else 1):
            with lock:
                inside[0] += 1
                seen.append((kind, inside[0]))
            time.sleep(0.002)
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(12) as lanes:
        kinds = ["beside", "beside", "beside", "alone"] * 30
        for end in [lanes.submit(enter, kind) for kind in kinds]:
            end.result(30)
    assert len(seen) == 120
    assert {count for kind, count in seen if kind == "alone"} == {1}
    assert max(count for kind, count in seen if kind == "beside") > 1


def test_a_claim_that_redis_was_away_for_ends_at_the_next_heartbeat(
    redis_server_process: RedisServer,
) -> None:
    with connect(redis_server_process.url, retry_seconds=0.2) as client:
        client.config_set("appendfsync", "always")
        items, job = JobStore(client).items, JobId("job")
        claims = ClaimManager(items, OURS, lambda _: False)
        job_store = JobStore(client)
        recipe = Recipe("birefnet-nano", "a" * 64, (64, 64), Preset())
        job_store.open(Job(job, "/photos", "/cutouts", recipe, 1.0))
        job_store.add(
            job, [Item(index, f"{index}.jpg", f"{index}.png", "id") for index in range(3)]
        )
        job_store.start(job)
        items.claim(job, 2, DEAD)
        with pytest.raises(RedisUnavailable), claims.claim(job, 0, "0.jpg"):  # noqa: PT012
            redis_server_process.kill()
            items.settle(job, Outcome.done(0))
        with pytest.raises(RedisUnavailable), claims.claim(job, 1, "1.jpg"):
            pass
        with pytest.raises(RedisUnavailable):
            claims.end_abandoned()
        redis_server_process.start()
        assert items.claims(job) == {0: OURS, 2: DEAD}
        claims.end_abandoned()
        assert items.claims(job) == {2: DEAD}
        with claims.claim(job, 0, "0.jpg") as again:
            claims.end_abandoned()
            assert again
            assert items.claims(job) == {0: OURS, 2: DEAD}
