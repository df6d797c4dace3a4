"""How jobs begin: opened under their leases, joined, replaced and listed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.lease import Lease, is_held
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.jobs.store import JobConflict
from bgpipe.pipeline.scheduling.submission import list_and_start, open_job, open_or_join
from bgpipe.pipeline.session import Session
from bgpipe.pipeline.types import Job, JobId, JobState, Preset

SECONDS = 30.0


@pytest.fixture
def job(job: Job, tmp_path: Path) -> Job:
    """A job of a folder with one image."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff a JPEG by its signature only")
    return replace(job, source=str(tmp_path / "photos"), out=str(tmp_path / "out"))


def twin(job: Job, **changes: object) -> Job:
    return replace(job, id=JobId("twin"), **changes)


def test_a_job_is_never_seen_without_its_leader(session: Session, job: Job) -> None:
    lease = open_job(session, job)
    assert is_held(session.client, keys.lease_of_job(job.id))
    lease.release()


def test_a_conflict_leaves_no_lease(session: Session, job: Job) -> None:
    open_job(session, job)
    with pytest.raises(JobConflict):
        open_job(session, twin(job))
    assert not is_held(session.client, keys.lease_of_job(JobId("twin")))


def test_a_job_that_does_the_same_is_joined_while_it_is_led(session: Session, job: Job) -> None:
    open_job(session, job)
    opened = open_or_join(session, twin(job))
    assert (opened.id, opened.replaced) == (job.id, None)
    assert list_and_start(session, job.id, opened.lease) is None  # its leader lists it


def test_a_job_is_joined_while_a_dispatcher_leads(session: Session, job: Job) -> None:
    open_job(session, job).release()
    Lease(session.client, keys.DISPATCH, SECONDS).acquire()
    assert open_or_join(session, twin(job)).id == job.id


def test_an_abandoned_job_is_replaced(session: Session, job: Job) -> None:
    open_job(session, job).release()
    opened = open_or_join(session, twin(job))
    assert (opened.id, opened.replaced) == ("twin", job.id)
    assert session.jobs.summary(job.id).state is JobState.CANCELLED


def test_a_job_of_other_cutouts_in_the_same_place_is_refused(session: Session, job: Job) -> None:
    open_job(session, job)
    other = twin(job, recipe=replace(job.recipe, preset=Preset(invert=True)))
    with pytest.raises(UsageError, match="cutouts of another kind"):
        open_or_join(session, other)


@pytest.mark.parametrize(("owner", "keeps"), [("", True), ("shop", False)])
def test_a_listed_job_runs_and_an_uploads_folder_has_no_catalog(
    session: Session, job: Job, tmp_path: Path, owner: str, keeps: bool
) -> None:
    job = replace(job, owner=owner)
    lease = open_job(session, job)
    seen: list[str] = []
    ignored = list_and_start(session, job.id, lease, on_work=lambda: seen.append("work"))
    assert (str(ignored), seen) == ("", ["work"])
    assert session.jobs.summary(job.id).state is JobState.RUNNING
    assert (tmp_path / "state" / "catalogs").exists() is keeps


def test_keys_that_grow_are_left_for_a_later_job(session: Session, job: Job) -> None:
    (Path(job.source) / "b.jpg").write_bytes(b"\xff\xd8\xff a JPEG by its signature only")
    lease = open_job(session, job)
    list_and_start(session, job.id, lease, growing={"a.jpg"})
    (item,) = session.jobs.items.read(job.id, 0, 9)
    assert item.source == "b.jpg"
