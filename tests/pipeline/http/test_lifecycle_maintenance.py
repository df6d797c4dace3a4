"""Maintenance of jobs without requests, also after the death of the server that accepted them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Job, JobState

pytest.importorskip("fastapi")
from bgpipe.pipeline.http.dependencies import AppState, open_state
from bgpipe.pipeline.http.files import new_upload_id
from bgpipe.pipeline.http.lifecycle import MaintenanceLoop, make_job, register_job, submit
from bgpipe.pipeline.http.schemas import CutoutOptions

DAY = 86_400.0


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where uploads go."""
    if request.param == "folder":
        return str(tmp_path / "uploads")
    request.getfixturevalue("aws")
    return f"{request.getfixturevalue('s3').make_bucket()}/some/uploads"


@pytest.fixture
def state(
    redis_url: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AppState]:
    monkeypatch.setenv("BGPIPE_REDIS_URL", redis_url)
    monkeypatch.setenv("BGPIPE_SERVE__UPLOADS", root)
    monkeypatch.setenv("BGPIPE_MODEL__NAME", "birefnet-nano")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with open_state(load_settings()) as state:
        yield state


@pytest.fixture
def job(state: AppState, photo: Callable[..., Path]) -> Job:
    """Return a job of an upload, not yet opened."""
    upload = new_upload_id()
    state.uploads.write("anna", upload, "a.png", photo("a.png").read_bytes())
    return make_job(state, "anna", state.uploads.location("anna", upload), CutoutOptions())


def test_a_job_whose_server_died_before_it_was_listed_is_listed(state: AppState, job: Job) -> None:
    register_job(state, job)
    state.jobs.open(job)
    loop = MaintenanceLoop(state)
    deadline = time.monotonic() + 60
    while state.jobs.summary(job.id).state is JobState.LISTING:
        assert time.monotonic() < deadline, "the job was not listed"
        loop.step()
        loop.join_tasks(60)
    assert state.jobs.summary(job.id).total == 1


def test_a_job_that_is_over_is_open_no_longer(state: AppState, job: Job) -> None:
    submit(state, job)
    client, loop = state.session.client, MaintenanceLoop(state)
    loop.step()
    assert client.sismember(keys.of_open_jobs("anna"), job.id)
    state.jobs.cancel(job.id)
    deadline = time.monotonic() + 60
    while client.zcard(keys.SERVED):
        assert time.monotonic() < deadline, "still on the list"
        loop.step()
        loop.join_tasks(60)
    assert not client.sismember(keys.of_open_jobs("anna"), job.id)


def test_what_was_kept_for_long_enough_is_removed_with_its_job(
    state: AppState, job: Job, root: str
) -> None:
    upload = job.source.removeprefix(f"{root}/").encode()
    assert state.session.client.zrange(keys.FOLDERS, 0, -1) == [upload]  # without a job, too
    submit(state, job)
    state.jobs.cancel(job.id)
    store = state.session.stores.open(root)
    results = state.session.stores.open(job.out)
    results.write("a.png", b"a cutout")
    assert len(list(store.list())) == 2
    old = time.time() - state.settings.serve.keep_days * DAY - 1
    client = state.session.client
    for folder in client.zrange(keys.FOLDERS, 0, -1):
        client.zadd(keys.FOLDERS, {folder: old})
    loop = MaintenanceLoop(state)
    loop.step()
    loop.join_tasks(60)
    assert list(store.list(missing_ok=True)) == []
    assert not client.zcard(keys.FOLDERS)
    with pytest.raises(JobNotFound):
        state.jobs.job(job.id)


def test_one_loop_leads(state: AppState, job: Job) -> None:
    first, second = MaintenanceLoop(state), MaintenanceLoop(state)
    first.step()
    register_job(state, job)
    state.jobs.open(job)
    second.step()
    assert state.jobs.summary(job.id).state is JobState.LISTING
    first.join_tasks(60)


def test_usage_is_recounted_with_the_cutouts_and_without_what_was_removed(
    state: AppState, job: Job
) -> None:
    client, upload = state.session.client, job.source.rpartition("/")[2]
    sent = int(client.hget(keys.USAGE, "anna") or 0)
    results = state.session.stores.open(job.out)
    results.write("a.png", bytes(1000))
    results.write("b.zip", bytes(500))
    state.uploads.recount()
    assert client.hgetall(keys.USAGE) == {b"anna": str(sent + 1500).encode()}
    state.uploads.open("anna", upload).clear()
    results.clear()
    loop = MaintenanceLoop(state)
    loop.step()
    loop.join_tasks(60)
    assert client.hgetall(keys.USAGE) == {b"anna": b"0"}


def test_what_is_sent_during_a_recount_stays_counted(state: AppState, job: Job) -> None:
    class Busy(StoreFactory):
        def open(self, location: str) -> Store:
            state.session.client.hincrby(keys.USAGE, "anna", 700)
            return super().open(location)

    sent = int(state.session.client.hget(keys.USAGE, "anna") or 0)
    replace(state.uploads, stores=Busy(state.settings.s3)).recount()
    assert int(state.session.client.hget(keys.USAGE, "anna") or 0) == sent + 700
