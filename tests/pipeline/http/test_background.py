"""What is done for jobs while nobody asks, also after the server that took them has died."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.jobs.store import JobNotFound
from bgpipe.pipeline.types import Job, JobState

pytest.importorskip("fastapi")
from bgpipe.pipeline.http.background import MaintenanceLoop
from bgpipe.pipeline.http.dependencies import AppState, open_state
from bgpipe.pipeline.http.submission import (
    CutoutOptions,
    new_job_name,
    recipe_of,
    register_job,
    submit,
    touch_upload,
)

DAY = 86_400.0


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where uploads go."""
    if request.param == "folder":
        return str(tmp_path / "uploads")
    request.getfixturevalue("aws")
    return f"{request.getfixturevalue('s3').make_bucket()}/some/uploads"


@pytest.fixture
def backend(
    redis_url: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AppState]:
    monkeypatch.setenv("BGPIPE_REDIS_URL", redis_url)
    monkeypatch.setenv("BGPIPE_SERVE__UPLOADS", root)
    monkeypatch.setenv("BGPIPE_MODEL__NAME", "birefnet-nano")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with open_state(load_settings()) as backend:
        yield backend


@pytest.fixture
def order(backend: AppState, photo: Callable[..., Path]) -> Job:
    """A job of an upload that nobody has opened yet."""
    upload = backend.uploads.new_name()
    backend.uploads.put("anna", upload, "a.png", photo("a.png").read_bytes())
    touch_upload(backend, f"anna/uploads/{upload}")
    name = new_job_name()
    return Job(
        name,
        backend.uploads.source("anna", upload),
        backend.uploads.results("anna", name),
        recipe_of(backend.settings, CutoutOptions()),
        created=time.time(),
        owner="anna",
    )


def test_a_job_whose_server_died_before_it_was_listed_is_listed(
    backend: AppState, order: Job
) -> None:
    register_job(backend, order)
    backend.jobs.open(order)
    attendant = MaintenanceLoop(backend)
    deadline = time.monotonic() + 60
    while backend.jobs.summary(order.id).state is JobState.LISTING:
        assert time.monotonic() < deadline, "nobody lists it"
        attendant.step()
        attendant.rest(60)
    assert backend.jobs.summary(order.id).total == 1


def test_a_job_that_is_over_is_open_no_longer(backend: AppState, order: Job) -> None:
    submit(backend, order)
    client, attendant = backend.session.client, MaintenanceLoop(backend)
    attendant.step()
    assert client.sismember(keys.of_open_jobs("anna"), order.id)
    backend.jobs.cancel(order.id)
    deadline = time.monotonic() + 60
    while client.zcard(keys.SERVED):
        assert time.monotonic() < deadline, "still on the list"
        attendant.step()
        attendant.rest(60)
    assert not client.sismember(keys.of_open_jobs("anna"), order.id)


def test_what_was_kept_for_long_enough_is_removed_with_its_job(
    backend: AppState, order: Job, root: str
) -> None:
    submit(backend, order)
    backend.jobs.cancel(order.id)
    store = backend.session.stores.open(root)
    results = backend.session.stores.open(order.out)
    results.write("a.png", b"a cutout")
    assert len(list(store.list())) == 2
    old = time.time() - backend.settings.serve.keep_days * DAY - 1
    client = backend.session.client
    for folder in client.zrange(keys.FOLDERS, 0, -1):
        client.zadd(keys.FOLDERS, {folder: old})
    attendant = MaintenanceLoop(backend)
    attendant.step()
    attendant.rest(60)
    assert list(store.list(missing_ok=True)) == []
    assert not client.zcard(keys.FOLDERS)
    with pytest.raises(JobNotFound):
        backend.jobs.job(order.id)


def test_one_attendant_leads(backend: AppState, order: Job) -> None:
    first, second = MaintenanceLoop(backend), MaintenanceLoop(backend)
    first.step()
    register_job(backend, order)
    backend.jobs.open(order)
    second.step()
    assert backend.jobs.summary(order.id).state is JobState.LISTING
