from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import Lease
from bgpipe.pipeline.errors import Code, PermanentError, StoreCorrupted, UsageError
from bgpipe.pipeline.jobs.items import MOST_ITEMS, REFUSALS, Claim, fingerprint
from bgpipe.pipeline.jobs.manifest import VERSION, _compress
from bgpipe.pipeline.jobs.scripts import run_script
from bgpipe.pipeline.jobs.store import INDEXED, JobConflict, JobNotFound, JobStore, LeaseLost
from bgpipe.pipeline.types import (
    Failure,
    Item,
    Job,
    JobId,
    JobOutput,
    JobState,
    Matting,
    Outcome,
    Output,
    OutputResult,
    Preset,
    ReviewFlag,
)

Items = Callable[[int], list[Item]]
OpenJob = Callable[[int], JobId]


def failed(index: int) -> Outcome:
    return Outcome.failed(index, PermanentError(Code.NOT_IMAGE, "no image: x.jpg"))


def claimed(job_store: JobStore, job: JobId, index: int, worker: str = "w") -> Claim:
    claim = job_store.items.claim(job, index, worker)
    assert claim
    return claim


def claim(job_store: JobStore, job: JobId, index: int) -> tuple[int, bool]:
    """Claim the item; returns the attempt, and whether the item was in flight already."""
    claim, owner = job_store.items.claim(job, index, "w"), job_store.items.owner(job, index)
    assert claim
    assert owner
    return claim.attempt, owner.redelivered


def test_a_job_is_kept_as_it_was_asked_for(job_store: JobStore, job: Job) -> None:
    job_store.open(job)
    assert job_store.job(job.id) == job
    assert job_store.summary(job.id).state is JobState.LISTING


def test_a_job_that_solves_edges_is_kept_as_it_was_asked_for(job_store: JobStore, job: Job) -> None:
    matting = Matting("vitmatte", "cd" * 32, (512, 512), band=0.01)
    edged = replace(job, recipe=replace(job.recipe, matting=matting))
    job_store.open(edged)
    assert job_store.job(edged.id) == edged
    assert job_store.job(edged.id).recipe.hash == edged.recipe.hash != job.recipe.hash


def test_opening_the_same_job_twice_is_harmless_another_of_its_name_is_refused(
    job_store: JobStore, job: Job
) -> None:
    job_store.open(job)
    job_store.open(job)
    with pytest.raises(UsageError, match="already exists: spring-2024"):
        job_store.open(replace(job, out="/elsewhere"))
    assert job_store.job(job.id) == job


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "x:done", "../x", "a\n"])
def test_an_impossible_name_of_a_job_is_refused(job_store: JobStore, job: Job, name: str) -> None:
    with pytest.raises(UsageError, match="not a job's name"):
        job_store.open(replace(job, id=JobId(name)))
    with pytest.raises(UsageError, match="not a job's name"):
        job_store.summary(JobId(name))


def test_an_unknown_job_is_named(job_store: JobStore) -> None:
    unknown = JobId("never-opened")
    for look in (
        job_store.job,
        job_store.summary,
        job_store.cursor,
        job_store.start,
        job_store.items.size,
    ):
        with pytest.raises(JobNotFound, match="never-opened"):
            look(unknown)
    with pytest.raises(JobNotFound, match="never-opened"):
        job_store.items.claim(unknown, 0, "w")
    with pytest.raises(JobNotFound, match="never-opened"):
        job_store.items.settle(unknown, Outcome.done(0))
    with pytest.raises(JobNotFound, match="never-opened"):
        list(job_store.items.missing(unknown))


@pytest.mark.parametrize("index", [-1, 3, 10_000_000])
def test_an_item_that_the_manifest_has_not_changes_no_books(
    job_store: JobStore, open_job: OpenJob, index: int
) -> None:
    job = open_job(3)
    before = job_store.summary(job)
    for act in (
        lambda: job_store.items.claim(job, index, "w"),
        lambda: job_store.items.settle(job, Outcome.done(index)),
        lambda: job_store.items.get(job, index),
    ):
        with pytest.raises(UsageError, match=f"has no item: {index}"):
            act()
    assert job_store.summary(job).queued == before.queued == 3


def test_a_manifest_comes_back_however_it_was_cut(
    job_store: JobStore, job: Job, items: Items
) -> None:
    whole = items(2500)
    job_store.open(job)
    for start, stop in ((0, 1), (1, 999), (999, 1001), (1001, 2400), (2400, 2500)):
        job_store.add(job.id, whole[start:stop])
    job_store.add(job.id, [])
    assert job_store.items.size(job.id) == 2500
    assert list(job_store.items.read(job.id, 0, 3000)) == whole
    assert list(job_store.items.read(job.id, 998, 1002)) == whole[998:1002]
    assert [job_store.items.get(job.id, index) for index in (0, 999, 1000, 2499)] == [
        whole[index] for index in (0, 999, 1000, 2499)
    ]


def test_a_manifest_keeps_any_name(job_store: JobStore, job: Job) -> None:
    names = [
        ("a b/ü漢字 '\".jpg", "a b/ü漢字 '\".png"),
        ("\udcff.jpg", "\udcff.jpg.png"),
        ("x", "y"),
    ]
    nasty = [Item(index, source, target, "") for index, (source, target) in enumerate(names)]
    job_store.open(job)
    job_store.add(job.id, nasty)
    assert list(job_store.items.read(job.id, 0, 3)) == nasty


def test_adding_twice_changes_nothing_and_a_gap_is_refused(
    job_store: JobStore, job: Job, items: Items
) -> None:
    job_store.open(job)
    job_store.add(job.id, items(5))
    job_store.add(job.id, items(5))
    assert job_store.items.size(job.id) == 5
    with pytest.raises(UsageError, match="does not end at item 6"):
        job_store.add(job.id, items(8)[6:])


def test_a_job_of_more_images_than_redis_can_hold_is_refused_while_it_is_listed(
    job_store: JobStore, job: Job, items: Items
) -> None:
    job_store.open(job)
    with pytest.raises(
        UsageError, match="more than 67,108,864 cutouts: submit its source in parts"
    ):
        job_store.add(job.id, [replace(items(1)[0], index=MOST_ITEMS)])
    with pytest.raises(UsageError, match="does not end at item"):
        job_store.add(job.id, [replace(items(1)[0], index=MOST_ITEMS - 1)])


def test_an_item_is_read_after_the_block_that_held_fewer(
    job_store: JobStore, job: Job, items: Items
) -> None:
    job_store.open(job)
    job_store.add(job.id, items(2)[:1])
    assert job_store.items.get(job.id, 0).index == 0
    job_store.add(job.id, items(2)[1:])
    assert job_store.items.get(job.id, 1).index == 1


def test_a_job_with_nothing_to_do_is_finished_at_once(job_store: JobStore, job: Job) -> None:
    job_store.open(job)
    job_store.skip(job.id, 100)
    job_store.skip(job.id, 120)
    job_store.start(job.id)
    summary = job_store.summary(job.id)
    assert (summary.state, summary.total, summary.skipped, summary.queued) == (
        JobState.FINISHED,
        120,
        120,
        0,
    )
    assert summary.images_per_second == 0


def test_an_attempt_is_counted_when_it_begins(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(2)
    claims = [job_store.items.claim(job, 1, worker) for worker in ("gpu0", "gpu0", "gpu1")]
    assert [claim.attempt for claim in claims if claim] == [1, 2, 3]
    assert all(claim and claim.item.source == "shoes/1.jpg" for claim in claims)
    assert job_store.items.claims(job) == {1: "gpu1"}
    assert job_store.summary(job).running == 1


def test_a_released_item_is_queued_again(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(2)
    claim = claimed(job_store, job, 0)
    job_store.items.release(claim)
    job_store.items.release(claim)
    summary = job_store.summary(job)
    assert (summary.queued, summary.running) == (2, 0)


def test_a_settled_item_cannot_be_claimed_or_settled_again(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(3)
    assert job_store.items.settle(job, Outcome.done(0))
    assert job_store.items.settle(job, failed(1))
    for index in (0, 1):
        assert job_store.items.claim(job, index, "w") is None
        assert not job_store.items.settle(job, Outcome.done(index))
        assert not job_store.items.settle(job, failed(index))
    summary = job_store.summary(job)
    assert (summary.done, summary.failed, summary.queued, summary.running) == (1, 1, 1, 0)
    assert summary.errors == {"E_NOT_IMAGE": 1}


def test_the_last_item_closes_the_books(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(3)
    job_store.skip(job, 2)
    for index in range(3):
        assert job_store.summary(job).state is JobState.RUNNING
        job_store.items.claim(job, index, "w")
        job_store.items.settle(job, failed(index) if index == 1 else Outcome.done(index))
    summary = job_store.summary(job)
    assert (summary.state, summary.total, summary.done, summary.skipped, summary.failed) == (
        JobState.FINISHED,
        5,
        2,
        2,
        1,
    )
    assert summary.seconds > 0
    assert summary.images_per_second == pytest.approx(2 / summary.seconds)
    assert job_store.summary(job) == summary  # the clock stops


def test_every_delivery_by_many_threads_counts_once(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(200)
    settled: list[bool] = []

    def lane() -> None:
        for index in range(200):
            if job_store.items.claim(job, index, "w"):
                settled.append(job_store.items.settle(job, Outcome.done(index)))

    lanes = [threading.Thread(target=lane) for _ in range(8)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    summary = job_store.summary(job)
    assert sum(settled) == summary.done == 200
    assert (summary.running, summary.queued, summary.state) == (0, 0, JobState.FINISHED)


def test_a_cancelled_job_gives_no_claims(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(1)
    client.hset(keys.of_job(job).head, "state", JobState.CANCELLED)
    assert job_store.items.claim(job, 0, "w") is None
    job_store.items.settle(job, Outcome.done(0))
    assert job_store.summary(job).state is JobState.CANCELLED


def test_failures_are_listed_in_order_with_their_attempts(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(1200)
    for index in (1100, 3):
        job_store.items.claim(job, index, "w")
        job_store.items.settle(job, failed(index))
    job_store.items.claim(job, 7, "w")
    job_store.items.claim(job, 7, "w")
    job_store.items.settle(job, Outcome(7, Code.STORAGE, "x" * 5000))
    listed = list(job_store.items.failures(job))
    assert [failure.index for failure in listed] == [3, 7, 1100]
    assert listed[0] == Failure(
        3, "shoes/3.jpg", "shoes/3.png", "E_NOT_IMAGE", "no image: x.jpg", attempts=1
    )
    assert listed[1].attempts == 2
    assert len(listed[1].detail) == 1000


def test_what_is_not_settled_is_missing(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(70_001)  # more than one chunk of the bitmaps, and no multiple of 8
    client.setrange(keys.of_job(job).done, 0, b"\xff" * 8748)  # 69,984 bits
    job_store.items.settle(job, failed(69_985))
    job_store.items.settle(job, Outcome.done(70_000))
    expected = [69_984, *range(69_986, 70_000)]
    assert list(job_store.items.missing(job)) == expected


def test_everything_is_missing_before_the_first_outcome(
    job_store: JobStore, open_job: OpenJob
) -> None:
    assert list(job_store.items.missing(open_job(11))) == list(range(11))


def test_the_cursor_is_kept(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(5)
    assert job_store.cursor(job) == 0
    job_store.set_cursor(job, 4)
    assert job_store.cursor(job) == 4


def test_an_older_token_moves_no_cursor(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(5)
    job_store.lead(job, token=5)
    with pytest.raises(LeaseLost):
        job_store.set_cursor(job, 4, token=4)
    assert job_store.cursor(job) == 0


def test_jobs_are_listed_the_newest_first(job_store: JobStore, job: Job) -> None:
    assert job_store.latest() is None
    for name, created in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        job_store.open(replace(job, id=JobId(name), out=f"/{name}", created=created))
    assert job_store.ids() == ["c", "b", "a"]
    assert job_store.latest() == "c"


def test_every_key_has_our_prefix_and_an_image_costs_few_bytes(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(10_000)
    for index in range(0, 10_000, 7):
        job_store.items.claim(job, index, "w")
        job_store.items.settle(job, Outcome.done(index))
    names = [name.decode() for name in client.scan_iter()]
    assert all(name.startswith(keys.PREFIX) for name in names)
    assert sum(client.memory_usage(name, samples=0) for name in names) < 40 * 10_000


def test_an_item_in_flight_that_is_claimed_again_is_suspect(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(1)

    assert claim(job_store, job, 0) == (1, False)
    assert claim(job_store, job, 0) == (2, True)  # its worker died
    job_store.items.release(claimed(job_store, job, 0))
    assert claim(job_store, job, 0) == (4, False)  # its attempt failed, and the worker said so


def test_what_is_given_back_was_never_claimed(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(2)
    for _ in range(3):
        held = claimed(job_store, job, 0)
        assert held.attempt == 1
        job_store.items.give_back(held)
        job_store.items.give_back(held)
    job_store.items.claim(job, 1, "w")
    job_store.items.give_back(claimed(job_store, job, 1))
    assert claim(job_store, job, 1) == (2, False)


def refuse(job_store: JobStore, job: JobId, times: int, reason: str = "the disk is full") -> bool:
    """Have the first item refused; returns whether the job is paused."""
    return [job_store.items.give_back(claimed(job_store, job, 0), reason) for _ in range(times)][-1]


def test_refusals_in_a_row_for_one_reason_pause_a_job_and_cost_no_attempt(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(3)
    assert not refuse(job_store, job, REFUSALS - 1)
    assert not refuse(job_store, job, 1, "the clock is wrong")
    assert not refuse(job_store, job, REFUSALS - 1)
    job_store.items.settle(job, Outcome.done(2))
    assert not refuse(job_store, job, REFUSALS - 1)
    assert job_store.summary(job).paused == ""
    assert claim(job_store, job, 1) == (1, False)
    assert refuse(job_store, job, 1)
    paused = job_store.summary(job)
    assert re.fullmatch(r"since \d{4}-\d\d-\d\d \d\d:\d\d: the disk is full", paused.paused)
    assert (paused.state, paused.queued, paused.running) == (JobState.RUNNING, 1, 1)
    assert job_store.items.claim(job, 0, "w") is None


def test_the_probe_of_a_paused_job_ends_the_pause_once_it_is_done(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(3)
    job_store.set_cursor(job, 3)
    refuse(job_store, job, REFUSALS)
    job_store.set_probe(job, 1)
    assert job_store.items.claim(job, 0, "w") is None
    assert job_store.items.give_back(claimed(job_store, job, 1), "the clock is wrong")
    assert job_store.summary(job).paused.endswith(": the clock is wrong")
    assert job_store.items.claim(job, 1, "w") is None
    job_store.set_probe(job, 2)
    assert claim(job_store, job, 2) == (1, False)
    job_store.items.settle(job, failed(2))
    assert job_store.summary(job).paused
    job_store.set_probe(job, 1)
    assert claim(job_store, job, 1) == (1, False)
    job_store.items.settle(job, Outcome.done(1))
    assert (job_store.summary(job).paused, job_store.cursor(job)) == ("", 0)
    assert claim(job_store, job, 0) == (1, False)


def test_a_refusal_that_is_reported_twice_counts_once(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(3)
    held = claimed(job_store, job, 0)
    for _ in range(REFUSALS):
        assert not job_store.items.give_back(held, "the disk is full")
    assert not refuse(job_store, job, REFUSALS - 2)
    assert refuse(job_store, job, 1)


def test_a_person_ends_a_pause_by_unpausing_or_cancelling(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(3)
    job_store.set_cursor(job, 3)
    job_store.lead(job, 7)
    refuse(job_store, job, REFUSALS)
    job_store.unpause(job)
    assert (job_store.summary(job).paused, job_store.cursor(job)) == ("", 0)
    assert refuse(job_store, job, REFUSALS)
    job_store.cancel(job)
    assert job_store.summary(job).paused == ""
    job_store.resume(job, 8)
    assert job_store.summary(job).paused == ""
    assert claim(job_store, job, 0) == (1, False)
    with pytest.raises(JobNotFound):
        job_store.unpause(JobId("other"))


@pytest.mark.parametrize("end", ["release", "give_back"])
def test_a_worker_whose_item_was_taken_over_ends_no_claim_but_its_own(
    job_store: JobStore, open_job: OpenJob, end: str
) -> None:
    job = open_job(1)
    first = claimed(job_store, job, 0, "stood still")
    second = claimed(job_store, job, 0, "took over")
    getattr(job_store.items, end)(first)
    owner = job_store.items.owner(job, 0)
    assert owner
    assert owner.worker == "took over"
    getattr(job_store.items, end)(second)
    assert job_store.items.owner(job, 0) is None
    assert claimed(job_store, job, 0).attempt == {"release": 3, "give_back": 2}[end]


def test_a_worker_ends_no_claim_of_another(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(1)
    claimed(job_store, job, 0, "w/1")
    for other in ("w/2", "w", "w/11"):
        job_store.items.end_claim(job, 0, other)
        assert job_store.items.owner(job, 0)
    job_store.items.end_claim(job, 0, "w/1")
    assert job_store.items.owner(job, 0) is None


def test_a_worker_settles_nothing_in_a_later_job_of_the_same_name(
    job_store: JobStore, job: Job, items: Items, client: RedisClient
) -> None:
    claims = []
    for created in (1.0, 2.0):
        job_store.open(replace(job, created=created))
        job_store.add(job.id, items(2))
        job_store.start(job.id)
        claims.append(claimed(job_store, job.id, 0))
        if created == 1.0:
            job_store.cancel(job.id)
            job_store.forget(job.id)
    with pytest.raises(JobNotFound):
        job_store.items.settle(job.id, Outcome.done(0), claims[0], identity="1-1")
    assert (job_store.summary(job.id).done, job_store.summary(job.id).running) == (0, 1)
    assert not client.exists(keys.of_job(job.id).fingerprints)
    assert job_store.items.settle(job.id, Outcome.done(0), claims[1], identity="1-1")
    assert job_store.items.read_fingerprints(job.id, 0, 1) == [fingerprint("1-1")]


def test_a_claim_brings_the_job_that_it_is_of_although_its_name_was_used_before(
    job_store: JobStore, job: Job, items: Items
) -> None:
    for source, created in (("/old", 1.0), ("/new", 2.0)):
        job_store.open(replace(job, source=source, created=created))
        job_store.add(job.id, [replace(item, identity=source) for item in items(1)])
        job_store.start(job.id)
        claim = job_store.items.claim(job.id, 0, "w")
        assert claim
        assert (claim.job.source, claim.item.identity) == (source, source)
        job_store.cancel(job.id)
        job_store.forget(job.id)


def test_of_two_jobs_that_do_the_same_one_is_open(job_store: JobStore, job: Job) -> None:
    twin = replace(job, id=JobId("twin"), created=2.0)
    job_store.open(job)
    with pytest.raises(JobConflict, match="spring-2024"):
        job_store.open(twin)
    for other in (
        replace(twin, id=JobId("elsewhere"), out="/elsewhere"),
        replace(twin, id=JobId("narrow"), include=("a*",)),
        replace(twin, id=JobId("listed"), named="ab"),
    ):
        job_store.open(other)
    job_store.cancel(job.id)
    job_store.open(twin)
    with pytest.raises(JobConflict, match="twin"):
        job_store.resume(job.id)


def test_a_cancelled_job_ends_what_is_in_flight_and_begins_nothing(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(3)
    job_store.items.claim(job, 0, "w")
    job_store.cancel(job)
    job_store.cancel(job)
    assert job_store.items.claim(job, 1, "w") is None
    assert job_store.items.settle(job, Outcome.done(0))
    summary = job_store.summary(job)
    assert (summary.state, summary.done, summary.queued) == (JobState.CANCELLED, 1, 2)
    assert job_store.running_ids() == []


def test_a_cancelled_job_is_resumed_with_all_that_is_not_settled(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(3)
    job_store.items.settle(job, Outcome.done(0))
    job_store.set_cursor(job, 3)
    job_store.cancel(job)
    job_store.resume(job)
    job_store.resume(job)
    assert (job_store.summary(job).state, job_store.cursor(job)) == (JobState.RUNNING, 0)
    assert list(job_store.items.missing(job)) == [1, 2]
    job_store.cancel(job)
    for index in (1, 2):
        job_store.items.settle(job, Outcome.done(index))
    job_store.resume(job)
    assert job_store.summary(job).state is JobState.FINISHED


def test_a_job_that_was_not_cancelled_is_not_resumed(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(1)
    job_store.set_cursor(job, 1)
    job_store.resume(job)
    assert job_store.cursor(job) == 1
    job_store.items.settle(job, Outcome.done(0))
    job_store.resume(job)
    assert job_store.summary(job).state is JobState.FINISHED


def test_a_job_cancelled_while_it_was_listed_is_listed_again(
    job_store: JobStore, job: Job, items: Items
) -> None:
    job_store.open(job)
    job_store.add(job.id, items(3))
    job_store.cancel(job.id)
    with pytest.raises(UsageError, match="was cancelled"):
        job_store.add(job.id, items(5)[3:])
    with pytest.raises(UsageError, match="was cancelled"):
        job_store.start(job.id)
    job_store.resume(job.id)
    assert job_store.summary(job.id).state is JobState.LISTING


def test_a_listing_that_begins_anew_counts_anew(
    job_store: JobStore, job: Job, items: Items
) -> None:
    job_store.open(job)
    job_store.skip(job.id, 7)
    job_store.add(job.id, items(3))
    job_store.relist(job.id)
    assert (job_store.summary(job.id).total, job_store.items.size(job.id)) == (0, 0)
    job_store.add(job.id, items(2))
    job_store.start(job.id)
    assert job_store.summary(job.id).total == 2


def test_an_owner_has_no_more_open_jobs_than_the_maximum(client: RedisClient) -> None:
    lists = [keys.of_open_jobs("shop"), keys.of_owner("shop"), keys.SERVED]

    def register(name: str, maximum: int) -> int:
        return int(run_script(client, "register", lists, name, f"shop/{name}", 1.5, maximum))

    assert [register(name, 2) for name in ("a", "b", "c", "a")] == [0, 0, 2, 0]
    assert register("c", 3) == 0
    assert client.smembers(keys.of_open_jobs("shop")) == {b"a", b"b", b"c"}
    registered = [(name, 1.5) for name in (b"a", b"b", b"c")]
    assert client.zrange(keys.of_owner("shop"), 0, -1, withscores=True) == registered
    served = [(b"shop/" + name, score) for name, score in registered]
    assert client.zrange(keys.SERVED, 0, -1, withscores=True) == served


def test_a_finished_job_cannot_be_cancelled(job_store: JobStore, open_job: OpenJob) -> None:
    with pytest.raises(UsageError, match="nothing to cancel"):
        job_store.cancel(open_job(0))


def test_a_job_that_no_command_leads_is_interrupted_and_its_clock_stands(
    job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(3)
    lease = Lease(client, keys.lease_of_job(job), seconds=60)
    job_store.lead(job, lease.acquire())
    time.sleep(0.1)
    job_store.items.settle(job, Outcome.done(0))
    assert not job_store.summary(job).interrupted
    lease.release()
    time.sleep(0.3)
    first = job_store.summary(job)
    assert first.interrupted
    assert 0.1 <= first.seconds < 0.3
    time.sleep(0.1)
    assert job_store.summary(job).seconds == first.seconds
    job_store.lead(job, Lease(client, keys.lease_of_job(job), seconds=60).acquire())
    taken_up = job_store.summary(job)
    assert not taken_up.interrupted
    assert first.seconds <= taken_up.seconds < first.seconds + 0.1
    for index in (1, 2):
        job_store.items.settle(job, Outcome.done(index))
    assert job_store.summary(job).seconds < first.seconds + 0.2


def test_the_clock_of_a_leader_that_stays_goes_on(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(3)
    job_store.lead(job, token=5)
    job_store.items.settle(job, Outcome.done(0))
    time.sleep(0.2)
    job_store.lead(job, token=5)
    assert job_store.summary(job).interrupted  # no process holds a lease here
    for index in (1, 2):
        job_store.items.settle(job, Outcome.done(index))
    assert job_store.summary(job).seconds >= 0.2


def test_the_clock_of_a_job_that_has_ended_stands(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(1)
    job_store.items.settle(job, Outcome.done(0))
    ended = job_store.summary(job)
    time.sleep(0.02)
    job_store.lead(job, token=5)
    assert job_store.summary(job) == ended


def test_a_start_that_is_repeated_changes_nothing(
    job_store: JobStore, client: RedisClient, job: Job, items: Items
) -> None:
    job_store.open(job)
    job_store.add(job.id, items(2))
    job_store.skip(job.id, 3)
    stored = []
    for _ in range(2):
        job_store.start(job.id)
        stored.append((client.hgetall(keys.of_job(job.id).head), client.hgetall(keys.TOTALS)))
    assert stored[0] == stored[1]


@pytest.mark.parametrize("leader", [keys.DISPATCH, keys.MAINTENANCE])
def test_a_job_of_a_cluster_that_is_led_is_not_interrupted(
    job_store: JobStore, client: RedisClient, open_job: OpenJob, leader: str
) -> None:
    job = open_job(1)
    assert job_store.summary(job).interrupted
    Lease(client, leader, seconds=60).acquire()
    assert not job_store.summary(job).interrupted


def test_a_job_that_is_published_whole_needs_only_a_worker(
    job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(2)
    client.hset(keys.of_worker("gpu0@host/1"), "beat", 1)
    assert job_store.summary(job).interrupted
    job_store.set_cursor(job, 2)
    assert not job_store.summary(job).interrupted
    client.delete(keys.of_worker("gpu0@host/1"))
    assert job_store.summary(job).interrupted


def test_a_job_that_has_ended_is_not_interrupted(job_store: JobStore, open_job: OpenJob) -> None:
    assert not job_store.summary(open_job(0)).interrupted


def test_the_books_of_an_older_version_are_read(
    job_store: JobStore, client: RedisClient, open_job: OpenJob
) -> None:
    job = open_job(2)
    job_store.items.settle(job, Outcome.done(0))
    client.hdel(keys.of_job(job).head, "settled")  # which it did not write
    job_store.lead(job, token=7)
    assert job_store.summary(job).done == 1
    assert job_store.summary(job).seconds > 0


def test_a_retry_opens_the_dead_letters_only(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(4)
    for index in range(4):
        for _ in range(2):
            job_store.items.claim(job, index, "w")
        job_store.items.settle(job, failed(index) if index in {1, 3} else Outcome.done(index))
    job_store.set_cursor(job, 4)
    seconds = job_store.summary(job).seconds
    job_store.retry(job, token=5)
    job_store.retry(job, token=5)  # the answer to the first was lost
    summary = job_store.summary(job)
    assert (summary.state, summary.done, summary.failed, summary.queued) == (
        JobState.RUNNING,
        2,
        0,
        2,
    )
    assert (summary.errors, list(job_store.items.failures(job))) == ({}, [])
    assert (list(job_store.items.missing(job)), job_store.cursor(job)) == ([1, 3], 0)
    assert summary.seconds >= seconds - 1e-6  # Redis rounds what it adds up
    assert claim(job_store, job, 1) == (1, False)
    assert claim(job_store, job, 1) == (2, True)  # those before the retry do not count
    for index in (1, 3):
        job_store.items.settle(job, Outcome.done(index))
    assert job_store.summary(job).state is JobState.FINISHED
    assert job_store.summary(job).done == 4


def test_a_retry_is_refused_while_another_job_has_the_target(
    job_store: JobStore, open_job: OpenJob, job: Job
) -> None:
    open_job(1)
    job_store.items.settle(job.id, failed(0))
    job_store.open(replace(job, id=JobId("twin")))
    with pytest.raises(JobConflict, match="twin"):
        job_store.retry(job.id, token=5)
    assert job_store.summary(job.id).state is JobState.FINISHED


def test_a_retry_changes_what_failed_and_nothing_else(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(3000)
    names = keys.of_job(job)
    client.setrange(names.claimed, 0, b"\xff" * 375)
    client.setbit(names.claimed, 7, 0)  # it failed without a claim
    client.setrange(names.done, 0, b"\xff" * 374 + b"\x7f")
    client.hset(names.head, "done", 2999)
    client.setbit(names.done, 7, 0)
    client.hincrby(names.head, "done", -1)
    for index in (7, 2992):
        job_store.items.settle(job, failed(index))
    assert job_store.summary(job).state is JobState.FINISHED
    job_store.retry(job, token=5)
    assert list(job_store.items.missing(job)) == [7, 2992]
    assert client.bitcount(names.claimed) == 2998
    assert [client.getbit(names.claimed, index) for index in (6, 7, 8, 2991, 2992)] == [
        1,
        0,
        1,
        1,
        0,
    ]
    assert not client.exists(names.failed, names.errors)


def test_running_jobs_are_found_whatever_version_started_them(
    job_store: JobStore, open_job: OpenJob, client: RedisClient, job: Job
) -> None:
    running = open_job(1)
    for number in range(INDEXED + 1):
        job_store.open(replace(job, id=JobId(f"done-{number}"), out=f"/{number}"))
        job_store.start(JobId(f"done-{number}"))
    assert job_store.running_ids() == [running]
    assert client.zrange(keys.RUNNING, 0, -1) == [running.encode()]  # others left as it was read
    client.delete(keys.RUNNING)  # an older version keeps no index
    assert job_store.running_ids() == []
    job_store.index_running()
    assert client.zrange(keys.RUNNING, 0, -1) == [running.encode()]
    assert job_store.running_ids() == [running]


def test_a_job_that_runs_is_not_retried(job_store: JobStore, open_job: OpenJob) -> None:
    job = open_job(2)
    job_store.items.settle(job, failed(0))
    with pytest.raises(UsageError, match="has not finished"):
        job_store.retry(job)
    assert job_store.summary(job).failed == 1


def test_a_forgotten_job_leaves_nothing_but_the_count_of_its_images(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(3)
    for index in range(2):
        job_store.items.claim(job, index, "w")
        job_store.items.claim(job, index, "w")
    job_store.items.settle(job, failed(0))
    with pytest.raises(UsageError, match="is open"):
        job_store.forget(job)
    job_store.cancel(job)
    job_store.forget(job)
    assert list(client.scan_iter(f"{keys.PREFIX}*")) == [keys.TOTALS.encode()]
    with pytest.raises(JobNotFound):
        job_store.forget(job)
    with pytest.raises(JobNotFound):  # a worker that was still at it
        job_store.items.settle(job, Outcome.done(1))
    assert list(client.scan_iter(f"{keys.PREFIX}*")) == [keys.TOTALS.encode()]


WRONG = ["head", "manifest", "claimed", "done", "failed", "running", "repeats", "errors"]


@pytest.mark.parametrize("name", WRONG)
def test_a_key_of_a_wrong_type_is_reported_and_never_counted(
    job_store: JobStore, open_job: OpenJob, client: RedisClient, name: str
) -> None:
    job = open_job(3)
    key = getattr(keys.of_job(job), name)
    client.delete(key)
    client.rpush(key, "not ours")

    def work() -> None:
        for index in range(2):
            job_store.items.claim(job, index, "w")
            job_store.items.claim(job, index, "w")
            job_store.items.settle(job, failed(index))

    with pytest.raises(StoreCorrupted, match=r"damaged: bgpipe:job:spring-2024.*--forget"):
        work()
    if name != "head":
        summary = job_store.summary(job) if name != "running" else None
        assert summary is None or summary.failed == len(list(set_bits(client, job)))
        job_store.cancel(job)
    job_store.forget(job)
    assert job_store.ids() == []


def test_totals_of_a_wrong_type_stop_an_outcome_before_it_counts(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(1)
    client.delete(keys.TOTALS)
    client.rpush(keys.TOTALS, "not ours")
    with pytest.raises(StoreCorrupted):
        job_store.items.settle(job, Outcome.done(0))
    assert (job_store.summary(job).done, list(job_store.items.missing(job))) == (0, [0])


def set_bits(client: RedisClient, job: JobId) -> list[int]:
    bitmap = keys.of_job(job).failed
    if client.type(bitmap) != b"string":
        return []
    return [index for index in range(3) if client.getbit(bitmap, index)]


@pytest.mark.parametrize("block", [b"", b"no block", _compress("no columns"), _compress([1])])
def test_a_malformed_block_is_reported_with_its_number(
    job_store: JobStore, open_job: OpenJob, client: RedisClient, block: bytes
) -> None:
    job = open_job(3)
    client.hset(keys.of_job(job).manifest, "0", block)
    with pytest.raises(StoreCorrupted, match="manifest of job spring-2024 is damaged"):
        job_store.items.get(job, 2)
    with pytest.raises(StoreCorrupted, match="manifest of job spring-2024 is damaged"):
        job_store.items.claim(job, 1, "w")


def test_a_block_of_a_later_version_is_reported(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(3)
    later = _compress([VERSION + 1, {"columns": "of another kind"}])
    client.hset(keys.of_job(job).manifest, "0", later)
    with pytest.raises(StoreCorrupted, match=f"later version of bgpipe.*reads up to {VERSION}"):
        job_store.items.claim(job, 1, "w")


def test_a_block_of_the_first_kind_without_a_version_is_read(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(2)
    columns = [["a.jpg", "b c.jpg"], [3, 3], ["png", "png"], ["1-1", "2-2"]]
    client.hset(keys.of_job(job).manifest, "0", _compress(columns))
    assert job_store.items.get(job, 1) == Item(1, "b c.jpg", "b c.png", "2-2")


def test_a_missing_block_is_reported(
    job_store: JobStore, open_job: OpenJob, client: RedisClient
) -> None:
    job = open_job(3)
    client.delete(keys.of_job(job).manifest)
    with pytest.raises(StoreCorrupted, match="there is no item 2"):
        job_store.items.get(job, 2)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"version": 0}', "another version"),
        ('{"version": 99, "id": "spring-2024"}', "another version"),
        ('{"id": "spring-2024"}', "another version"),
        ('{"version": 1}', "damaged"),
        ("[1]", "damaged"),
        ("no json", "damaged"),
    ],
)
def test_the_record_of_another_version_is_reported(
    job_store: JobStore, open_job: OpenJob, client: RedisClient, record: str, words: str
) -> None:
    job = open_job(1)
    client.hset(keys.of_job(job).head, "job", record)
    for look in (job_store.job, job_store.summary):
        with pytest.raises(StoreCorrupted, match=f"{words}.*--forget spring-2024"):
            look(job)
    job_store.cancel(job)
    job_store.forget(job)
    assert job_store.ids() == []


def test_scores_are_kept_in_hundredths_at_the_place_of_their_item(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(5)
    assert job_store.items.scores(job) == []
    for index, score in ((3, 0.876), (1, 0.0), (4, None)):
        for value in (score, 0.5):  # the second is of a duplicate
            job_store.items.settle(job, Outcome(index, score=value))
    job_store.items.settle(job, failed(0))
    assert job_store.items.scores(job) == [None, 0.0, None, 0.88]
    assert [view.score for view in job_store.items.views(job, 1, 5)] == [0.0, None, 0.88, None]


def test_flags_are_counted_once_and_listed_in_the_manifests_order(
    job_store: JobStore, open_job: OpenJob
) -> None:
    job = open_job(4)
    both = (ReviewFlag.NO_SUBJECT, ReviewFlag.MORE_FRAMES)
    for _ in range(2):
        job_store.items.settle(job, Outcome.done(3, both))
        job_store.items.settle(job, Outcome.done(1, (ReviewFlag.MORE_FRAMES,)))
        job_store.items.settle(job, Outcome.done(0))
        job_store.items.settle(job, failed(2))
    summary = job_store.summary(job)
    assert (summary.done, summary.failed, summary.flagged) == (3, 1, 2)
    assert summary.flags == {"more-frames": 2, "no-subject": 1}
    assert list(job_store.items.flags(job).items()) == [
        (1, (ReviewFlag.MORE_FRAMES,)),
        (3, both),
    ]


@pytest.fixture
def parted(job: Job) -> Job:
    """A job with three outputs."""
    small = replace(job.recipe, output=Output("webp"), preset=Preset(size="9x9"))
    outputs = (
        JobOutput("web", small, "-web"),
        JobOutput("print", job.recipe, naming="{stem}_p"),
        JobOutput("mask", replace(job.recipe, output=Output("mask")), "-mask"),
    )
    return replace(job, outputs=outputs)


def parted_item(index: int, stale: int = 0b111) -> Item:
    others = (f"{index}_p.png", f"d/{index}-mask.png")
    return Item(index, f"d/{index}.jpg", f"d/{index}-web.webp", f"{index}-1", others, stale)


def test_a_job_with_outputs_and_its_items_are_kept_as_they_are(
    job_store: JobStore, parted: Job
) -> None:
    listed = [parted_item(index, 1 + index % 7) for index in range(1500)]
    job_store.open(parted)
    job_store.add(parted.id, listed[:700])
    job_store.add(parted.id, listed[700:])
    assert job_store.job(parted.id) == parted
    assert list(job_store.items.read(parted.id, 0, 1500)) == listed
    assert listed[3].targets == ("d/3-web.webp", "3_p.png", "d/3-mask.png")


def test_more_outputs_than_fingerprints_fit_are_refused(job_store: JobStore, parted: Job) -> None:
    job_store.open(parted)
    with pytest.raises(UsageError, match="more than 67,108,864 cutouts"):
        job_store.add(parted.id, [parted_item(MOST_ITEMS // 3)])


def test_outputs_are_counted_once_by_name(job_store: JobStore, parted: Job) -> None:
    """Image 0: all written; 1: its web was up to date, and its mask fails at first; 2: unreadable."""
    job_store.open(parted)
    job_store.skip(parted.id, 4)
    job_store.add(parted.id, [parted_item(0), parted_item(1, 0b110), parted_item(2)])
    job_store.start(parted.id)

    def settle(outcome: Outcome, *results: tuple[str, bool]) -> bool:
        names = ("web", "print", "mask")
        outputs = [OutputResult(name, *result) for name, result in zip(names, results, strict=True)]
        return job_store.items.settle(parted.id, outcome, outputs=outputs)

    def counts(name: str) -> tuple[int, ...]:
        return tuple(job_store.summary(parted.id).outputs[name].values())

    assert list(job_store.summary(parted.id).outputs) == ["web", "print", "mask"]
    every = [("7-1", False)] * 3
    assert settle(Outcome.done(0), *every)
    assert not settle(Outcome.done(0), *every)
    assert settle(failed(1), ("", False), ("8-1", False), ("", True))
    assert settle(failed(2), *[("", True)] * 3)
    assert (counts("web"), counts("print"), counts("mask")) == ((1, 5, 1), (2, 4, 1), (1, 4, 2))
    prints = job_store.items.read_fingerprints(parted.id, 0, 9)
    empty = bytes(8)
    written = [fingerprint("7-1")] * 3
    assert prints == [*written, empty, fingerprint("8-1"), b"", b"", b"", b""]
    job_store.retry(parted.id)
    assert [counts(name)[2] for name in ("web", "print", "mask")] == [0, 0, 0]
    assert settle(Outcome.done(1), ("", False), ("8-1", False), ("9-1", False))
    assert settle(failed(2), *[("", True)] * 3)
    assert (counts("web"), counts("print"), counts("mask")) == ((1, 5, 1), (2, 4, 1), (2, 4, 1))
    assert job_store.items.read_fingerprints(parted.id, 3, 6) == [
        *(empty, fingerprint("8-1"), fingerprint("9-1"))
    ]
    summary = job_store.summary(parted.id)
    assert (summary.total, summary.done, summary.failed, summary.skipped) == (7, 2, 1, 4)


def test_the_record_of_a_job_without_outputs_has_no_field_for_them(
    client: RedisClient, job_store: JobStore, job: Job
) -> None:
    job_store.open(job)
    record = client.hget(keys.of_job(job.id).head, "job")
    assert b"outputs" not in record
    assert b"enlarge" not in record
