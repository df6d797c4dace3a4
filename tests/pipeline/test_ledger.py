from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.errors import Code, PermanentError, UsageError
from bgpipe.pipeline.ledger import Ledger, UnknownJob
from bgpipe.pipeline.types import Failure, Item, Job, JobId, JobState, Outcome

Items = Callable[[int], list[Item]]
OpenJob = Callable[[int], JobId]


def failed(index: int) -> Outcome:
    return Outcome.failed(index, PermanentError(Code.NOT_IMAGE, "no image: x.jpg"))


def test_a_job_is_kept_as_it_was_asked_for(ledger: Ledger, job: Job) -> None:
    ledger.open(job)
    assert ledger.job(job.id) == job
    assert ledger.books(job.id).state is JobState.LISTING


def test_opening_the_same_job_twice_is_harmless_another_of_its_name_is_refused(
    ledger: Ledger, job: Job
) -> None:
    ledger.open(job)
    ledger.open(job)
    with pytest.raises(UsageError, match="already: spring-2024"):
        ledger.open(replace(job, out="/elsewhere"))
    assert ledger.job(job.id) == job


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "x:done", "../x", "a\n"])
def test_an_impossible_name_of_a_job_is_refused(ledger: Ledger, job: Job, name: str) -> None:
    with pytest.raises(UsageError, match="not a job's name"):
        ledger.open(replace(job, id=JobId(name)))
    with pytest.raises(UsageError, match="not a job's name"):
        ledger.books(JobId(name))


def test_an_unknown_job_is_named(ledger: Ledger) -> None:
    nobody = JobId("nobody")
    for look in (ledger.job, ledger.books, ledger.cursor, ledger.start, ledger.size):
        with pytest.raises(UnknownJob, match="nobody"):
            look(nobody)
    with pytest.raises(UnknownJob, match="nobody"):
        ledger.claim(nobody, 0, "w")
    with pytest.raises(UnknownJob, match="nobody"):
        ledger.settle(nobody, Outcome.done(0))
    with pytest.raises(UnknownJob, match="nobody"):
        list(ledger.missing(nobody))


@pytest.mark.parametrize("index", [-1, 3, 10_000_000])
def test_an_item_that_the_manifest_has_not_changes_no_books(
    ledger: Ledger, open_job: OpenJob, index: int
) -> None:
    job = open_job(3)
    before = ledger.books(job)
    for act in (
        lambda: ledger.claim(job, index, "w"),
        lambda: ledger.settle(job, Outcome.done(index)),
        lambda: ledger.item(job, index),
    ):
        with pytest.raises(UsageError, match=f"has no item: {index}"):
            act()
    assert ledger.books(job).queued == before.queued == 3


def test_a_manifest_comes_back_however_it_was_cut(ledger: Ledger, job: Job, items: Items) -> None:
    whole = items(2500)
    ledger.open(job)
    for start, stop in ((0, 1), (1, 999), (999, 1001), (1001, 2400), (2400, 2500)):
        ledger.add(job.id, whole[start:stop])
    ledger.add(job.id, [])
    assert ledger.size(job.id) == 2500
    assert list(ledger.items(job.id, 0, 3000)) == whole
    assert list(ledger.items(job.id, 998, 1002)) == whole[998:1002]
    assert [ledger.item(job.id, index) for index in (0, 999, 1000, 2499)] == [
        whole[index] for index in (0, 999, 1000, 2499)
    ]


def test_a_manifest_keeps_any_name(ledger: Ledger, job: Job) -> None:
    names = [
        ("a b/ü漢字 '\".jpg", "a b/ü漢字 '\".png"),
        ("\udcff.jpg", "\udcff.jpg.png"),
        ("x", "y"),
    ]
    nasty = [Item(index, source, target, "") for index, (source, target) in enumerate(names)]
    ledger.open(job)
    ledger.add(job.id, nasty)
    assert list(ledger.items(job.id, 0, 3)) == nasty


def test_adding_twice_changes_nothing_and_a_gap_is_refused(
    ledger: Ledger, job: Job, items: Items
) -> None:
    ledger.open(job)
    ledger.add(job.id, items(5))
    ledger.add(job.id, items(5))
    assert ledger.size(job.id) == 5
    with pytest.raises(UsageError, match="does not end at item 6"):
        ledger.add(job.id, items(8)[6:])


def test_an_item_is_read_after_the_block_that_held_fewer(
    ledger: Ledger, job: Job, items: Items
) -> None:
    ledger.open(job)
    ledger.add(job.id, items(2)[:1])
    assert ledger.item(job.id, 0).index == 0
    ledger.add(job.id, items(2)[1:])
    assert ledger.item(job.id, 1).index == 1


def test_a_job_with_nothing_to_do_is_finished_at_once(ledger: Ledger, job: Job) -> None:
    ledger.open(job)
    ledger.skip(job.id, 100)
    ledger.skip(job.id, 120)
    ledger.start(job.id)
    books = ledger.books(job.id)
    assert (books.state, books.total, books.skipped, books.queued) == (
        JobState.FINISHED,
        120,
        120,
        0,
    )
    assert books.images_per_second == 0


def test_an_attempt_is_counted_when_it_begins(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(2)
    claims = [ledger.claim(job, 1, worker) for worker in ("gpu0", "gpu0", "gpu1")]
    assert [claim.attempt for claim in claims if claim] == [1, 2, 3]
    assert all(claim and claim.item.source == "shoes/1.jpg" for claim in claims)
    assert ledger.claims(job) == {1: "gpu1"}
    assert ledger.books(job).running == 1


def test_a_released_item_is_queued_again(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(2)
    ledger.claim(job, 0, "w")
    ledger.release(job, 0)
    ledger.release(job, 0)
    books = ledger.books(job)
    assert (books.queued, books.running) == (2, 0)


def test_a_settled_item_cannot_be_claimed_or_settled_again(
    ledger: Ledger, open_job: OpenJob
) -> None:
    job = open_job(3)
    assert ledger.settle(job, Outcome.done(0))
    assert ledger.settle(job, failed(1))
    for index in (0, 1):
        assert ledger.claim(job, index, "w") is None
        assert not ledger.settle(job, Outcome.done(index))
        assert not ledger.settle(job, failed(index))
    books = ledger.books(job)
    assert (books.done, books.failed, books.queued, books.running) == (1, 1, 1, 0)
    assert books.errors == {"E_NOT_IMAGE": 1}


def test_the_last_item_closes_the_books(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(3)
    ledger.skip(job, 2)
    for index in range(3):
        assert ledger.books(job).state is JobState.RUNNING
        ledger.claim(job, index, "w")
        ledger.settle(job, failed(index) if index == 1 else Outcome.done(index))
    books = ledger.books(job)
    assert (books.state, books.total, books.done, books.skipped, books.failed) == (
        JobState.FINISHED,
        5,
        2,
        2,
        1,
    )
    assert books.seconds > 0
    assert books.images_per_second == pytest.approx(2 / books.seconds)
    assert ledger.books(job) == books  # the clock stands still


def test_every_delivery_by_many_threads_counts_once(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(200)
    settled: list[bool] = []

    def lane() -> None:
        for index in range(200):
            if ledger.claim(job, index, "w"):
                settled.append(ledger.settle(job, Outcome.done(index)))

    lanes = [threading.Thread(target=lane) for _ in range(8)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    books = ledger.books(job)
    assert sum(settled) == books.done == 200
    assert (books.running, books.queued, books.state) == (0, 0, JobState.FINISHED)


def test_a_cancelled_job_gives_no_claims(
    ledger: Ledger, open_job: OpenJob, client: Connection
) -> None:
    job = open_job(1)
    client.hset(keys.of_job(job).head, "state", JobState.CANCELLED)
    assert ledger.claim(job, 0, "w") is None
    ledger.settle(job, Outcome.done(0))
    assert ledger.books(job).state is JobState.CANCELLED


def test_failures_are_listed_in_order_with_their_attempts(
    ledger: Ledger, open_job: OpenJob
) -> None:
    job = open_job(1200)
    for index in (1100, 3):
        ledger.claim(job, index, "w")
        ledger.settle(job, failed(index))
    ledger.claim(job, 7, "w")
    ledger.claim(job, 7, "w")
    ledger.settle(job, Outcome(7, Code.STORAGE, "x" * 5000))
    listed = list(ledger.failures(job))
    assert [failure.index for failure in listed] == [3, 7, 1100]
    assert listed[0] == Failure(
        3, "shoes/3.jpg", "shoes/3.png", "E_NOT_IMAGE", "no image: x.jpg", attempts=1
    )
    assert listed[1].attempts == 2
    assert len(listed[1].detail) == 1000


def test_what_is_not_settled_is_missing(
    ledger: Ledger, open_job: OpenJob, client: Connection
) -> None:
    job = open_job(70_001)  # more than one chunk of the bitmaps, and no multiple of 8
    client.setrange(keys.of_job(job).done, 0, b"\xff" * 8748)  # 69,984 bits
    ledger.settle(job, failed(69_985))
    ledger.settle(job, Outcome.done(70_000))
    expected = [69_984, *range(69_986, 70_000)]
    assert list(ledger.missing(job)) == expected


def test_everything_is_missing_before_the_first_outcome(ledger: Ledger, open_job: OpenJob) -> None:
    assert list(ledger.missing(open_job(11))) == list(range(11))


def test_the_cursor_is_kept(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(5)
    assert ledger.cursor(job) == 0
    ledger.advance(job, 4)
    assert ledger.cursor(job) == 4


def test_jobs_are_listed_the_newest_first(ledger: Ledger, job: Job) -> None:
    assert ledger.latest() is None
    for name, created in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        ledger.open(replace(job, id=JobId(name), created=created))
    assert [books.job for books in ledger.jobs()] == ["c", "b", "a"]
    assert ledger.latest() == "c"


def test_every_key_has_our_prefix_and_an_image_costs_few_bytes(
    ledger: Ledger, open_job: OpenJob, client: Connection
) -> None:
    job = open_job(10_000)
    for index in range(0, 10_000, 7):
        ledger.claim(job, index, "w")
        ledger.settle(job, Outcome.done(index))
    names = [name.decode() for name in client.scan_iter()]
    assert all(name.startswith(keys.PREFIX) for name in names)
    assert sum(client.memory_usage(name, samples=0) for name in names) < 40 * 10_000
