"""The totals of all jobs, and how the jobs stand together."""

from __future__ import annotations

from dataclasses import replace

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.jobs.items import REFUSALS
from bgpipe.pipeline.jobs.records import ERROR, FLAG
from bgpipe.pipeline.monitoring.collectors import read_cluster_stats
from bgpipe.pipeline.types import JobId, JobState, Outcome, ReviewFlag

EMPTY = PermanentError(Code.EMPTY, "no bytes")


def test_each_outcome_counts_once_however_often_it_is_settled(client, job_store, open_job) -> None:
    job = open_job(3)
    for _ in range(2):
        job_store.items.settle(job, Outcome.done(0))
        job_store.items.settle(job, Outcome.failed(1, EMPTY))
        job_store.items.settle(
            job, Outcome.done(2, (ReviewFlag.NO_SUBJECT, ReviewFlag.MANY_PIECES))
        )
    totals = read_cluster_stats(client)
    assert float(totals.since) > 0
    assert (totals.counts["done"], totals.counts["flagged"]) == (2, 1)
    assert (totals.counts[f"{ERROR}{Code.EMPTY}"], totals.counts[f"{ERROR}{Code.ACCESS}"]) == (1, 0)
    assert (
        totals.counts[f"{FLAG}{ReviewFlag.NO_SUBJECT}"],
        totals.counts[f"{FLAG}{ReviewFlag.FILLED_HOLE}"],
    ) == (1, 0)


def test_totals_stay_when_failures_are_tried_again_and_when_the_job_is_forgotten(
    client, job_store, open_job
) -> None:
    job = open_job(2)
    job_store.items.settle(job, Outcome.done(0))
    job_store.items.settle(job, Outcome.failed(1, EMPTY))
    before = read_cluster_stats(client)
    job_store.retry(job, token=1)
    again = read_cluster_stats(client)
    assert (again.since, again.counts) == (before.since, before.counts)
    job_store.items.settle(job, Outcome.failed(1, EMPTY))
    after = read_cluster_stats(client).counts
    assert (after["done"], after[f"{ERROR}{Code.EMPTY}"]) == (1, 2)
    job_store.forget(job)
    assert read_cluster_stats(client).counts == after


def test_what_was_up_to_date_counts_once_the_listing_has_ended(
    client, job_store, job, items
) -> None:
    job_store.open(job)
    job_store.skip(job.id, 7)
    assert read_cluster_stats(client).counts["skipped"] == 0
    for _ in range(2):
        job_store.start(job.id)
    assert read_cluster_stats(client).counts["skipped"] == 7


def test_running_jobs_are_added_up_and_the_others_counted(client, job_store, job, items) -> None:
    for name, count in (("first", 3), ("second", 2)):
        job_store.open(replace(job, id=JobId(name), source=f"/{name}"))
        job_store.add(JobId(name), items(count))
        job_store.start(JobId(name))
    job_store.open(replace(job, id=JobId("third"), source="/third"))
    job_store.add(JobId("third"), items(4))
    job_store.cancel(JobId("third"))
    job_store.items.claim(JobId("first"), 0, "cpu0@host/1")
    job_store.items.settle(JobId("second"), Outcome.done(0))
    for _ in range(REFUSALS):
        claim = job_store.items.claim(JobId("second"), 1, "cpu0@host/1")
        job_store.items.give_back(claim, "the disk is full")
    seen = read_cluster_stats(client)
    assert seen.jobs == {
        JobState.LISTING: 0,
        JobState.RUNNING: 2,
        JobState.FINISHED: 0,
        JobState.CANCELLED: 1,
    }
    assert (seen.paused, seen.unsettled, seen.in_flight) == (1, 4, 1)
    assert seen.oldest >= 0
    assert seen.images_per_second > 0


def test_a_damaged_job_hides_no_other(client, job_store, open_job) -> None:
    open_job(2)
    client.zadd(keys.JOBS, {"broken": 1.0})
    client.set(keys.of_job(JobId("broken")).head, "no hash")
    assert read_cluster_stats(client).unsettled == 2


def test_an_empty_redis_has_nothing_to_tell(client) -> None:
    seen = read_cluster_stats(client)
    assert (seen.since, seen.unsettled, seen.oldest) == ("", 0, 0.0)


def test_a_job_with_fields_of_another_version_counts_for_what_it_has(
    client, job_store, open_job
) -> None:
    job = open_job(2)
    job_store.items.settle(job, Outcome.done(0))
    client.hdel(keys.of_job(job).head, "started")
    client.zadd(keys.JOBS, {"archived": 1.0})
    client.hset(keys.of_job(JobId("archived")).head, "state", "archived")
    seen = read_cluster_stats(client)
    assert (seen.jobs[JobState.RUNNING], seen.unsettled) == (1, 1)
    assert (seen.oldest, seen.images_per_second) == (0, 0)
