"""How jobs begin: opened under their leases, joined, replaced and listed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.broker.lease import Lease, is_held
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.jobs.store import JobConflict, JobStore
from bgpipe.pipeline.planning.catalog import Catalogs
from bgpipe.pipeline.scheduling.submission import Submitter
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Job, JobId, JobState, Preset

SECONDS = 30.0


@pytest.fixture
def submitter(client: RedisClient, job_store: JobStore, catalogs: Catalogs) -> Submitter:
    stores = StoreFactory(load_settings().s3)
    return Submitter(client, job_store, stores, catalogs, SECONDS)


@pytest.fixture
def job(job: Job, tmp_path: Path) -> Job:
    """A job of a folder with one image."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff a JPEG by its signature only")
    return replace(job, source=str(tmp_path / "photos"), out=str(tmp_path / "out"))


def twin(job: Job, **changes: object) -> Job:
    return replace(job, id=JobId("twin"), **changes)


def test_a_job_is_never_seen_without_its_leader(submitter: Submitter, job: Job) -> None:
    lease = submitter.open_job(job)
    assert is_held(submitter.client, keys.lease_of_job(job.id))
    lease.release()


def test_a_conflict_leaves_no_lease(submitter: Submitter, job: Job) -> None:
    submitter.open_job(job)
    with pytest.raises(JobConflict):
        submitter.open_job(twin(job))
    assert not is_held(submitter.client, keys.lease_of_job(JobId("twin")))


def test_a_job_that_does_the_same_is_joined_while_it_is_led(submitter: Submitter, job: Job) -> None:
    submitter.open_job(job)
    opened = submitter.open_or_join(twin(job))
    assert (opened.id, opened.replaced) == (job.id, None)
    assert submitter.list_and_start(job.id, opened.lease) is None  # its leader lists it


def test_a_job_is_joined_while_a_dispatcher_leads(submitter: Submitter, job: Job) -> None:
    submitter.open_job(job).release()
    Lease(submitter.client, keys.DISPATCH, SECONDS).acquire()
    assert submitter.open_or_join(twin(job)).id == job.id


def test_an_abandoned_job_is_replaced(submitter: Submitter, job: Job) -> None:
    submitter.open_job(job).release()
    opened = submitter.open_or_join(twin(job))
    assert (opened.id, opened.replaced) == ("twin", job.id)
    assert submitter.jobs.summary(job.id).state is JobState.CANCELLED


def test_a_job_of_other_cutouts_in_the_same_place_is_refused(
    submitter: Submitter, job: Job
) -> None:
    submitter.open_job(job)
    other = twin(job, recipe=replace(job.recipe, preset=Preset(invert=True)))
    with pytest.raises(UsageError, match="cutouts of another kind"):
        submitter.open_or_join(other)


@pytest.mark.parametrize(("owner", "keeps"), [("", True), ("shop", False)])
def test_a_listed_job_runs_and_an_uploads_folder_has_no_catalog(
    submitter: Submitter, job: Job, tmp_path: Path, owner: str, keeps: bool
) -> None:
    job = replace(job, owner=owner)
    lease = submitter.open_job(job)
    seen: list[str] = []
    ignored = submitter.list_and_start(job.id, lease, on_work=lambda: seen.append("work"))
    assert (str(ignored), seen) == ("", ["work"])
    assert submitter.jobs.summary(job.id).state is JobState.RUNNING
    assert (tmp_path / "state" / "catalogs").exists() is keeps


def test_keys_that_grow_are_left_for_a_later_job(submitter: Submitter, job: Job) -> None:
    (Path(job.source) / "b.jpg").write_bytes(b"\xff\xd8\xff a JPEG by its signature only")
    lease = submitter.open_job(job)
    submitter.list_and_start(job.id, lease, growing={"a.jpg"})
    (item,) = submitter.jobs.items.read(job.id, 0, 9)
    assert item.source == "b.jpg"
