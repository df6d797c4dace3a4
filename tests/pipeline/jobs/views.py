"""What commands read of a job, as the model says it."""

from __future__ import annotations

from collections import Counter

import pytest

from bgpipe.pipeline.jobs.items import ItemState
from bgpipe.pipeline.jobs.store import JobNotFound, JobStore
from bgpipe.pipeline.types import CLOSED_STATES, JobId, JobState

from .job_model import JobModel, StoreModel


def assert_views(
    store: JobStore, model: StoreModel, name: JobId, has_leader: bool, has_worker: bool
) -> None:
    """Compare what the public methods of the store return with the model."""
    jobs = model.jobs
    newest = sorted(jobs, key=lambda job: jobs[job].job.created, reverse=True)
    assert store.ids() == newest
    assert store.latest() == next(iter(newest), None)
    running = [job for job in reversed(newest) if jobs[job].state is JobState.RUNNING]
    assert store.running_ids() == running
    assert sorted(store.closed_before(model.now)) == sorted(
        job for job, its in jobs.items() if its.finished is not None and its.finished < model.now
    )
    if name in jobs:
        _assert_job(store, model, name, has_leader, has_worker)
        return
    for read in (store.summary, store.cursor, store.job, store.items.size):
        with pytest.raises(JobNotFound):
            read(name)


def _assert_job(
    store: JobStore, model: StoreModel, name: JobId, has_leader: bool, has_worker: bool
) -> None:
    job = model.jobs[name]
    _assert_summary(store, model, name, has_leader, has_worker)
    assert store.job(name) == job.job
    assert store.cursor(name) == job.cursor
    assert store.named(name) == (["a"] if job.started is None else [])
    items = list(store.items.read(name, 0, 99))
    assert [item.source for item in items] == [item.source for item in job.items]
    assert list(store.items.missing(name)) == job.unsettled
    claims = {index: job.items[index].owner for index in job.in_flight}
    assert store.items.claims(name) == claims
    failures = list(store.items.failures(name))
    assert [(failure.index, failure.code, failure.attempts) for failure in failures] == [
        (index, job.items[index].outcome, job.items[index].attempts) for index in job.failed
    ]
    views = store.items.views(name, 0, 99)
    assert [(view.state, set(view.flags)) for view in views] == [
        (_state(job, index), set(item.flags)) for index, item in enumerate(job.items)
    ]


def _assert_summary(
    store: JobStore, model: StoreModel, name: JobId, has_leader: bool, has_worker: bool
) -> None:
    job, summary = model.jobs[name], store.summary(name)
    outcomes = Counter(item.outcome for item in job.items)
    done, failed = outcomes["done"], len(job.failed)
    assert (summary.state, summary.total) == (job.state, len(job.items) + job.skipped)
    assert (summary.done, summary.skipped, summary.failed) == (done, job.skipped, failed)
    assert (summary.running, summary.queued) == (
        len(job.in_flight),
        len(job.unsettled) - len(job.in_flight),
    )
    assert summary.errors == {code: n for code, n in outcomes.items() if code not in {"", "done"}}
    assert summary.flags == Counter(flag for item in job.items for flag in item.flags)
    published = job.state is JobState.RUNNING and job.cursor == len(job.items)
    interrupted = (
        job.state not in CLOSED_STATES and not has_leader and not (published and has_worker)
    )
    assert summary.interrupted == interrupted
    assert summary.seconds == pytest.approx(job.seconds(_end(job, model.now, interrupted)))


def _end(job: JobModel, now: float, interrupted: bool) -> float:
    """The clock of an interrupted job stands since its last outcome or start."""
    if not interrupted or job.settled is None or job.started is None:
        return now
    return max(job.settled, job.started)


def _state(job: JobModel, index: int) -> ItemState:
    item = job.items[index]
    if not item.outcome:
        return ItemState.RUNNING if item.claim else ItemState.QUEUED
    return ItemState.DONE if item.outcome == "done" else ItemState.FAILED
