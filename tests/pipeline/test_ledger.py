from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from bgpipe.pipeline import keys
from bgpipe.pipeline.connection import Connection
from bgpipe.pipeline.errors import Code, LedgerDamaged, PermanentError, UsageError
from bgpipe.pipeline.lease import Lease
from bgpipe.pipeline.ledger import Ledger, Occupied, UnknownJob
from bgpipe.pipeline.manifest import VERSION, _compressed
from bgpipe.pipeline.types import Failure, Flag, Item, Job, JobId, JobState, Matting, Outcome

Items = Callable[[int], list[Item]]
OpenJob = Callable[[int], JobId]


def failed(index: int) -> Outcome:
    return Outcome.failed(index, PermanentError(Code.NOT_IMAGE, "no image: x.jpg"))


def test_a_job_is_kept_as_it_was_asked_for(ledger: Ledger, job: Job) -> None:
    ledger.open(job)
    assert ledger.job(job.id) == job
    assert ledger.books(job.id).state is JobState.LISTING


def test_a_job_that_solves_edges_is_kept_as_it_was_asked_for(ledger: Ledger, job: Job) -> None:
    matting = Matting("vitmatte", "cd" * 32, (512, 512), band=0.01)
    order = replace(job, recipe=replace(job.recipe, matting=matting))
    ledger.open(order)
    assert ledger.job(order.id) == order
    assert ledger.job(order.id).recipe.hash == order.recipe.hash != job.recipe.hash


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
        ledger.open(replace(job, id=JobId(name), out=f"/{name}", created=created))
    assert ledger.ids() == ["c", "b", "a"]
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


def test_an_item_in_flight_that_is_claimed_again_is_suspect(
    ledger: Ledger, open_job: OpenJob
) -> None:
    job = open_job(1)

    def claim() -> tuple[int, bool]:
        claim = ledger.claim(job, 0, "w")
        assert claim
        return claim.attempt, claim.suspect

    assert claim() == (1, False)
    assert claim() == (2, True)  # its worker died
    ledger.release(job, 0)
    assert claim() == (3, False)  # its attempt failed, and the worker said so


def test_what_is_given_back_was_never_claimed(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(2)
    for _ in range(3):
        claim = ledger.claim(job, 0, "w")
        assert claim
        assert (claim.attempt, claim.suspect) == (1, False)
        ledger.give_back(job, 0)
        ledger.give_back(job, 0)
    ledger.claim(job, 1, "w")
    ledger.claim(job, 1, "w")
    ledger.give_back(job, 1)
    claim = ledger.claim(job, 1, "w")
    assert claim
    assert (claim.attempt, claim.suspect) == (2, False)


def test_a_claim_brings_the_job_that_it_is_of_although_its_name_was_used_before(
    ledger: Ledger, job: Job, items: Items
) -> None:
    for source, created in (("/old", 1.0), ("/new", 2.0)):
        ledger.open(replace(job, source=source, created=created))
        ledger.add(job.id, [replace(item, identity=source) for item in items(1)])
        ledger.start(job.id)
        claim = ledger.claim(job.id, 0, "w")
        assert claim
        assert (claim.job.source, claim.item.identity) == (source, source)
        ledger.cancel(job.id)
        ledger.forget(job.id)


def test_of_two_jobs_that_do_the_same_one_is_open(ledger: Ledger, job: Job) -> None:
    twin = replace(job, id=JobId("twin"), created=2.0)
    ledger.open(job)
    with pytest.raises(Occupied, match="spring-2024"):
        ledger.open(twin)
    for other in (
        replace(twin, id=JobId("elsewhere"), out="/elsewhere"),
        replace(twin, id=JobId("narrow"), include=("a*",)),
        replace(twin, id=JobId("listed"), named="ab"),
    ):
        ledger.open(other)
    ledger.cancel(job.id)
    ledger.open(twin)
    with pytest.raises(Occupied, match="twin"):
        ledger.resume(job.id)


def test_a_cancelled_job_ends_what_is_in_flight_and_begins_nothing(
    ledger: Ledger, open_job: OpenJob
) -> None:
    job = open_job(3)
    ledger.claim(job, 0, "w")
    ledger.cancel(job)
    ledger.cancel(job)
    assert ledger.claim(job, 1, "w") is None
    assert ledger.settle(job, Outcome.done(0))
    books = ledger.books(job)
    assert (books.state, books.done, books.queued) == (JobState.CANCELLED, 1, 2)
    assert ledger.running_ids() == []


def test_a_cancelled_job_is_resumed_with_all_that_is_not_settled(
    ledger: Ledger, open_job: OpenJob
) -> None:
    job = open_job(3)
    ledger.settle(job, Outcome.done(0))
    ledger.advance(job, 3)
    ledger.cancel(job)
    ledger.resume(job)
    ledger.resume(job)
    assert (ledger.books(job).state, ledger.cursor(job)) == (JobState.RUNNING, 0)
    assert list(ledger.missing(job)) == [1, 2]
    ledger.cancel(job)
    for index in (1, 2):
        ledger.settle(job, Outcome.done(index))
    ledger.resume(job)
    assert ledger.books(job).state is JobState.FINISHED


def test_a_job_cancelled_while_it_was_listed_is_listed_again(
    ledger: Ledger, job: Job, items: Items
) -> None:
    ledger.open(job)
    ledger.add(job.id, items(3))
    ledger.cancel(job.id)
    with pytest.raises(UsageError, match="was cancelled"):
        ledger.add(job.id, items(5)[3:])
    with pytest.raises(UsageError, match="was cancelled"):
        ledger.start(job.id)
    ledger.resume(job.id)
    assert ledger.books(job.id).state is JobState.LISTING


def test_a_finished_job_cannot_be_cancelled(ledger: Ledger, open_job: OpenJob) -> None:
    with pytest.raises(UsageError, match="nothing to cancel"):
        ledger.cancel(open_job(0))


def test_a_job_that_no_command_leads_is_interrupted_and_its_clock_stands(
    ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(3)
    lease = Lease(client, keys.lease_of_job(job), seconds=60)
    ledger.lead(job, lease.take())
    time.sleep(0.1)
    ledger.settle(job, Outcome.done(0))
    assert not ledger.books(job).interrupted
    lease.free()
    time.sleep(0.3)
    first = ledger.books(job)
    assert first.interrupted
    assert 0.1 <= first.seconds < 0.3
    time.sleep(0.1)
    assert ledger.books(job).seconds == first.seconds
    ledger.lead(job, Lease(client, keys.lease_of_job(job), seconds=60).take())
    taken_up = ledger.books(job)
    assert not taken_up.interrupted
    assert first.seconds <= taken_up.seconds < first.seconds + 0.1
    for index in (1, 2):
        ledger.settle(job, Outcome.done(index))
    assert ledger.books(job).seconds < first.seconds + 0.2


def test_the_clock_of_a_leader_that_stays_goes_on(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(3)
    ledger.lead(job, token=5)
    ledger.settle(job, Outcome.done(0))
    time.sleep(0.2)
    ledger.lead(job, token=5)
    assert ledger.books(job).interrupted  # no process holds a lease here
    for index in (1, 2):
        ledger.settle(job, Outcome.done(index))
    assert ledger.books(job).seconds >= 0.2


@pytest.mark.parametrize("leader", [keys.DISPATCH, keys.ATTEND])
def test_a_job_of_a_cluster_that_is_led_is_not_interrupted(
    ledger: Ledger, client: Connection, open_job: OpenJob, leader: str
) -> None:
    job = open_job(1)
    assert ledger.books(job).interrupted
    Lease(client, leader, seconds=60).take()
    assert not ledger.books(job).interrupted


def test_a_job_that_is_published_whole_needs_only_a_worker(
    ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(2)
    client.hset(keys.of_worker("gpu0@host/1"), "beat", 1)
    assert ledger.books(job).interrupted
    ledger.advance(job, 2)
    assert not ledger.books(job).interrupted
    client.delete(keys.of_worker("gpu0@host/1"))
    assert ledger.books(job).interrupted


def test_a_job_that_has_ended_is_not_interrupted(ledger: Ledger, open_job: OpenJob) -> None:
    assert not ledger.books(open_job(0)).interrupted


def test_the_books_of_an_older_version_are_read(
    ledger: Ledger, client: Connection, open_job: OpenJob
) -> None:
    job = open_job(2)
    ledger.settle(job, Outcome.done(0))
    client.hdel(keys.of_job(job).head, "settled")  # which it did not write
    ledger.lead(job, token=7)
    assert ledger.books(job).done == 1
    assert ledger.books(job).seconds > 0


def test_a_retry_opens_the_dead_letters_only(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(4)
    for index in range(4):
        for _ in range(2):
            ledger.claim(job, index, "w")
        ledger.settle(job, failed(index) if index in {1, 3} else Outcome.done(index))
    ledger.advance(job, 4)
    seconds = ledger.books(job).seconds
    ledger.retry(job, token=5)
    ledger.retry(job, token=5)  # the answer to the first was lost
    books = ledger.books(job)
    assert (books.state, books.done, books.failed, books.queued) == (JobState.RUNNING, 2, 0, 2)
    assert (books.errors, list(ledger.failures(job))) == ({}, [])
    assert (list(ledger.missing(job)), ledger.cursor(job)) == ([1, 3], 0)
    assert books.seconds >= seconds - 1e-6  # Redis rounds what it adds up
    claim = ledger.claim(job, 1, "w")
    assert claim
    assert (claim.attempt, claim.suspect) == (1, False)
    for index in (1, 3):
        ledger.settle(job, Outcome.done(index))
    assert ledger.books(job).state is JobState.FINISHED
    assert ledger.books(job).done == 4


def test_a_job_that_runs_is_not_retried(ledger: Ledger, open_job: OpenJob) -> None:
    job = open_job(2)
    ledger.settle(job, failed(0))
    with pytest.raises(UsageError, match="has not finished"):
        ledger.retry(job)
    assert ledger.books(job).failed == 1


def test_a_forgotten_job_leaves_nothing_but_the_count_of_its_images(
    ledger: Ledger, open_job: OpenJob, client: Connection
) -> None:
    job = open_job(3)
    for index in range(2):
        ledger.claim(job, index, "w")
        ledger.claim(job, index, "w")
    ledger.settle(job, failed(0))
    with pytest.raises(UsageError, match="is not over"):
        ledger.forget(job)
    ledger.cancel(job)
    ledger.forget(job)
    assert list(client.scan_iter(f"{keys.PREFIX}*")) == [keys.TOTALS.encode()]
    with pytest.raises(UnknownJob):
        ledger.forget(job)
    with pytest.raises(UnknownJob):  # a worker that was still at it
        ledger.settle(job, Outcome.done(1))
    assert list(client.scan_iter(f"{keys.PREFIX}*")) == [keys.TOTALS.encode()]


WRONG = ["head", "manifest", "claimed", "done", "failed", "running", "repeats", "errors"]


@pytest.mark.parametrize("name", WRONG)
def test_a_key_of_a_wrong_type_is_told_and_never_counted(
    ledger: Ledger, open_job: OpenJob, client: Connection, name: str
) -> None:
    job = open_job(3)
    key = getattr(keys.of_job(job), name)
    client.delete(key)
    client.rpush(key, "not ours")

    def work() -> None:
        for index in range(2):
            ledger.claim(job, index, "w")
            ledger.claim(job, index, "w")
            ledger.settle(job, failed(index))

    with pytest.raises(LedgerDamaged, match=r"wrong type: bgpipe:job:spring-2024.*--forget"):
        work()
    if name != "head":
        books = ledger.books(job) if name != "running" else None
        assert books is None or books.failed == len(list(set_bits(client, job)))
        ledger.cancel(job)
    ledger.forget(job)
    assert ledger.ids() == []


def set_bits(client: Connection, job: JobId) -> list[int]:
    bitmap = keys.of_job(job).failed
    if client.type(bitmap) != b"string":
        return []
    return [index for index in range(3) if client.getbit(bitmap, index)]


@pytest.mark.parametrize("block", [b"", b"no block", _compressed("no columns"), _compressed([1])])
def test_a_malformed_block_is_told_with_its_number(
    ledger: Ledger, open_job: OpenJob, client: Connection, block: bytes
) -> None:
    job = open_job(3)
    client.hset(keys.of_job(job).manifest, "0", block)
    with pytest.raises(LedgerDamaged, match="manifest of job spring-2024 is damaged"):
        ledger.item(job, 2)
    with pytest.raises(LedgerDamaged, match="manifest of job spring-2024 is damaged"):
        ledger.claim(job, 1, "w")


def test_a_block_of_a_later_version_is_told(
    ledger: Ledger, open_job: OpenJob, client: Connection
) -> None:
    job = open_job(3)
    later = _compressed([VERSION + 1, {"columns": "of another kind"}])
    client.hset(keys.of_job(job).manifest, "0", later)
    with pytest.raises(LedgerDamaged, match=f"later version of bgpipe.*reads up to {VERSION}"):
        ledger.claim(job, 1, "w")


def test_a_block_of_the_first_kind_without_a_version_is_read(
    ledger: Ledger, open_job: OpenJob, client: Connection
) -> None:
    job = open_job(2)
    columns = [["a.jpg", "b c.jpg"], [3, 3], ["png", "png"], ["1-1", "2-2"]]
    client.hset(keys.of_job(job).manifest, "0", _compressed(columns))
    assert ledger.item(job, 1) == Item(1, "b c.jpg", "b c.png", "2-2")


def test_a_block_that_is_gone_is_told(
    ledger: Ledger, open_job: OpenJob, client: Connection
) -> None:
    job = open_job(3)
    client.delete(keys.of_job(job).manifest)
    with pytest.raises(LedgerDamaged, match="there is no item 2"):
        ledger.item(job, 2)


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
def test_the_record_of_another_version_is_told(
    ledger: Ledger, open_job: OpenJob, client: Connection, record: str, words: str
) -> None:
    job = open_job(1)
    client.hset(keys.of_job(job).head, "job", record)
    for look in (ledger.job, ledger.books):
        with pytest.raises(LedgerDamaged, match=f"{words}.*--forget spring-2024"):
            look(job)
    ledger.cancel(job)
    ledger.forget(job)
    assert ledger.ids() == []


def test_flags_are_counted_once_and_listed_in_the_manifests_order(
    ledger: Ledger, open_job: OpenJob
) -> None:
    job = open_job(4)
    both = (Flag.NO_SUBJECT, Flag.MORE_FRAMES)
    for _ in range(2):
        ledger.settle(job, Outcome.done(3, both))
        ledger.settle(job, Outcome.done(1, (Flag.MORE_FRAMES,)))
        ledger.settle(job, Outcome.done(0))
        ledger.settle(job, failed(2))
    books = ledger.books(job)
    assert (books.done, books.failed, books.flagged) == (3, 1, 2)
    assert books.flags == {"more-frames": 2, "no-subject": 1}
    assert list(ledger.flags(job).items()) == [(1, (Flag.MORE_FRAMES,)), (3, both)]
