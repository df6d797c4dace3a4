"""Targets with a catalog, compared with a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bgpipe.pipeline.images import png
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow
from bgpipe.pipeline.planning.diff import TargetState, compare
from bgpipe.pipeline.planning.targets import assign_targets
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, ObjectInfo, Preset

SOURCE = "s3://shop/photos"
NOT_TO_BE_OPENED = b"no cutout, as anyone would see who opens it"


@pytest.fixture
def job(job: Job) -> Job:
    return replace(job, source=SOURCE)


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cutouts")


def sources(*names: str) -> list[ObjectInfo]:
    return [ObjectInfo(name, 1, f"identity of {name}") for name in sorted(names)]


def known(target: LocalStore, job_store: JobStore, job: Job, *names: str) -> None:
    """Cutouts of these sources, and the catalog that knows them."""
    writer = Catalog(target, SOURCE, job_store.items).successor(job)
    for entry, key, _ in assign_targets(sources(*names), job):
        made = target.write(key, NOT_TO_BE_OPENED)
        writer.add(CatalogRow(key, made, entry.key, entry.identity, job.recipe.hash))
    writer.close()


def found(
    target: LocalStore, job_store: JobStore, job: Job, entries: list[ObjectInfo]
) -> tuple[dict[str, TargetState], list[str]]:
    """Return the state of each target, and the sources of orphaned cutouts."""
    catalog = Catalog(target, SOURCE, job_store.items)
    batches = list(compare(assign_targets(entries, job), target, job, catalog))
    states = {item.source.key: item.state for batch in batches for item in batch}
    orphans = [key for key, state in states.items() if state is TargetState.ORPHANED]
    return {key: state for key, state in states.items() if key not in orphans}, orphans


def test_what_the_catalog_knows_is_not_opened(
    target: LocalStore, job_store: JobStore, job: Job
) -> None:
    known(target, job_store, job, "a.jpg", "b/c.jpg")
    standings, _ = found(target, job_store, job, sources("a.jpg", "b/c.jpg"))
    assert standings == {"a.jpg": TargetState.CURRENT, "b/c.jpg": TargetState.CURRENT}


def test_one_changed_one_new_and_one_deleted_source_are_found(
    target: LocalStore, job_store: JobStore, job: Job
) -> None:
    known(target, job_store, job, "a.jpg", "b.jpg", "c.jpg")
    entries = [*sources("a.jpg"), ObjectInfo("b.jpg", 2, "another"), *sources("d.jpg")]
    assert found(target, job_store, job, entries) == (
        {"a.jpg": TargetState.CURRENT, "b.jpg": TargetState.CHANGED, "d.jpg": TargetState.NEW},
        ["c.jpg"],
    )


def test_another_recipe_changes_all(target: LocalStore, job_store: JobStore, job: Job) -> None:
    known(target, job_store, job, "a.jpg")
    other = replace(job, recipe=replace(job.recipe, preset=Preset(invert=True)))
    assert found(target, job_store, other, sources("a.jpg"))[0] == {"a.jpg": TargetState.CHANGED}
    forced = replace(job, force=True)
    assert found(target, job_store, forced, sources("a.jpg"))[0] == {"a.jpg": TargetState.CHANGED}


def test_an_object_that_the_catalog_does_not_know_is_asked_itself(
    target: LocalStore, job_store: JobStore, job: Job
) -> None:
    known(target, job_store, job, "a.jpg", "b.jpg")
    text = {"bgpipe:recipe": job.recipe.text, "bgpipe:source": "identity of a.jpg"}
    target.write("a.png", png.encode(np.zeros((4, 4, 4), np.uint8), text=text))
    target.write("b.png", b"foreign")
    target.write("c.png", b"foreign")
    standings, left = found(target, job_store, job, sources("a.jpg", "b.jpg"))
    assert standings == {"a.jpg": TargetState.CURRENT, "b.jpg": TargetState.FOREIGN}
    assert left == []
    overwritten = replace(job, overwrite=True)
    assert found(target, job_store, overwritten, sources("b.jpg"))[0] == {
        "b.jpg": TargetState.CHANGED
    }
    forced = replace(job, force=True)
    assert found(target, job_store, forced, sources("a.jpg", "b.jpg"))[0] == {
        "a.jpg": TargetState.CHANGED,
        "b.jpg": TargetState.FOREIGN,
    }


def test_of_a_target_that_is_not_there_yet_all_is_new(
    target: LocalStore, job_store: JobStore, job: Job
) -> None:
    assert found(target, job_store, job, sources("a.jpg"))[0] == {"a.jpg": TargetState.NEW}
    assert not target.root.exists()
