"""Cutouts that have outlived their sources, in folders: which are found, and what is left alone."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import ItemError, NoImages, UsageError
from bgpipe.pipeline.images import png
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.jobs.store import NO_TOKEN, JobStore
from bgpipe.pipeline.planning.catalog import FOLDER, Catalogs
from bgpipe.pipeline.planning.diff import PlannedItem
from bgpipe.pipeline.planning.dry_run import estimate_job
from bgpipe.pipeline.planning.planner import list_job, plan_job
from bgpipe.pipeline.planning.prune import Orphans, TooManyOrphans, handle_orphans, remove_orphans
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, JobId, JobState, Outcome, Output

NUMBERS = count()


@pytest.fixture
def source(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "photos")
    for name in ("a.jpg", "b.jpg", "d/a.jpg", "d/c.jpg"):
        store.write(name, f"the photo {name}".encode())
    return store


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cutouts")


@pytest.fixture
def order(job: Job, source: LocalStore, target: LocalStore) -> Job:
    return replace(job, source=source.location, out=target.location)


def run(job_store: JobStore, catalogs: Catalogs, order: Job, target: LocalStore) -> int:
    """List and do a job like `order`; returns how many cutouts it made."""
    job = replace(order, id=JobId(f"job-{next(NUMBERS)}"))
    job_store.open(job)
    list_job(job_store, catalogs, job, LocalStore(Path(job.source)), target, NO_TOKEN)
    made = 0
    for item in job_store.items.read(job.id, 0, job_store.items.size(job.id)):
        text = {"bgpipe:recipe": job.recipe.text, "bgpipe:source": item.identity}
        file = png.encode(np.zeros((4, 4, 4), np.uint8), text=text)
        identity = target.write(item.target, file)
        job_store.items.settle(job.id, Outcome.done(item.index), identity=identity)
        made += 1
    assert job_store.summary(job.id).state is JobState.FINISHED
    return made


def orphans_of(catalogs: Catalogs, order: Job, target: LocalStore) -> Orphans:
    source = LocalStore(Path(order.source))
    found: list[Orphans] = []
    batches = plan_job(order, source.list(), source, target, catalogs.of(order, target))
    list(handle_orphans(batches, source, target, lambda orphans, _: found.append(orphans)))
    (orphans,) = found
    return orphans


def unexpected(item: PlannedItem, error: ItemError) -> None:
    raise error


def pruned(catalogs: Catalogs, order: Job, target: LocalStore) -> list[str]:
    """What was removed, and nothing failed."""
    return remove_orphans(target, orphans_of(catalogs, order, target).items, unexpected)


def files(store: LocalStore) -> set[str]:
    return {entry.key for entry in store.list(missing_ok=True)}


def test_a_cutout_goes_with_its_source_and_nothing_else_does(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    assert run(job_store, catalogs, order, target) == 4
    target.write("theirs.png", b"foreign")
    target.write("d/theirs.png", b"foreign")
    source.delete("d/a.jpg")
    assert pruned(catalogs, order, target) == ["d/a.png"]
    assert files(target) == {"a.png", "b.png", "d/c.png", "theirs.png", "d/theirs.png"}
    assert pruned(catalogs, order, target) == []


def test_what_a_later_run_lists_is_still_known_to_be_lost(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    source.delete("a.jpg")
    assert run(job_store, catalogs, order, target) == 0
    forecast = estimate_job(
        order, source, target, Limits(1, 1, 1), catalog=catalogs.of(order, target)
    )
    assert forecast.orphans == 1
    assert pruned(catalogs, order, target) == ["a.png"]


def test_a_cutout_whose_job_was_forgotten_speaks_for_itself(
    job_store: JobStore,
    catalogs: Catalogs,
    order: Job,
    source: LocalStore,
    target: LocalStore,
    client: RedisClient,
) -> None:
    run(job_store, catalogs, order, target)
    client.flushall()
    source.delete("a.jpg")
    source.delete("b.jpg")
    target.write("b.png", b"foreign")
    assert pruned(catalogs, order, target) == ["a.png"]


@pytest.mark.parametrize("same_time", [False, True])
def test_what_was_put_in_a_cutouts_place_stays(
    job_store: JobStore,
    catalogs: Catalogs,
    order: Job,
    source: LocalStore,
    target: LocalStore,
    same_time: bool,
) -> None:
    run(job_store, catalogs, order, target)
    run(job_store, catalogs, order, target)  # which makes facts of the promises
    path = target.root / "a.png"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    if same_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    source.delete("a.jpg")
    assert pruned(catalogs, order, target) == []
    assert path.read_bytes() == bytes(before.st_size)


def test_what_is_put_in_a_cutouts_place_at_the_last_moment_stays(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    source.delete("a.jpg")
    found = orphans_of(catalogs, order, target)
    target.write("a.png", b"foreign")
    assert [item.target for item in found.items] == ["a.png"]
    assert remove_orphans(target, found.items, unexpected) == []
    assert target.read("a.png", 99) == b"foreign"


def test_what_other_sources_gave_the_same_folder_stays(
    job_store: JobStore,
    catalogs: Catalogs,
    order: Job,
    source: LocalStore,
    target: LocalStore,
    tmp_path: Path,
) -> None:
    other = LocalStore(tmp_path / "others")
    for name in ("a.jpg", "x.jpg"):
        other.write(name, b"another photo")
    elsewhere = replace(order, source=other.location)
    run(job_store, catalogs, order, target)
    run(job_store, catalogs, elsewhere, target)  # takes the place of a.png too
    source.delete("a.jpg")
    source.delete("b.jpg")
    assert pruned(catalogs, order, target) == ["b.png"]
    other.delete("x.jpg")
    assert pruned(catalogs, elsewhere, target) == ["x.png"]
    assert files(target) == {"a.png", "d/a.png", "d/c.png"}


def test_a_source_that_is_left_out_is_not_gone(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    for narrow in (replace(order, exclude=("d/*",)), replace(order, include=("a.jpg",))):
        assert pruned(catalogs, narrow, target) == []


def test_a_source_that_is_gone_as_a_whole_prunes_nothing(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    for key in files(source):
        source.delete(key)
    with pytest.raises(NoImages):
        orphans_of(catalogs, order, target)


@pytest.mark.parametrize(
    "form",
    [
        {"naming": "by-name/{stem}-{folder}"},
        {"naming": "{folder}/.hidden-{stem}"},
        {"output": Output(format="zip")},
    ],
)
def test_names_of_any_kind_are_pruned(
    job_store: JobStore,
    catalogs: Catalogs,
    order: Job,
    source: LocalStore,
    target: LocalStore,
    form: dict[str, object],
) -> None:
    recipe = replace(order.recipe, output=form.get("output", order.recipe.output))
    shaped = replace(order, naming=str(form.get("naming", "")), recipe=recipe)
    assert run(job_store, catalogs, shaped, target) == 4
    assert run(job_store, catalogs, shaped, target) == 0
    source.delete("d/c.jpg")
    assert len(pruned(catalogs, shaped, target)) == 1
    assert len(list(shown(target))) == 3
    assert run(job_store, catalogs, shaped, target) == 0


def shown(store: LocalStore) -> Iterator[Path]:
    return (path for path in store.root.rglob("*") if path.is_file())


def test_a_name_by_another_template_is_not_an_orphan(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    run(job_store, catalogs, replace(order, naming="{folder}/{stem}-cutout"), target)
    assert orphans_of(catalogs, order, target).items == ()


def test_a_forged_catalog_reaches_nothing_outside(
    job_store: JobStore,
    catalogs: Catalogs,
    order: Job,
    source: LocalStore,
    target: LocalStore,
    tmp_path: Path,
) -> None:
    run(job_store, catalogs, order, target)
    outside = target.root.parent / "precious.png"
    text = {"bgpipe:recipe": order.recipe.text, "bgpipe:source": "1-1"}
    outside.write_bytes(png.encode(np.zeros((4, 4, 4), np.uint8), text=text))
    found = outside.stat()
    made = f"{found.st_size}-{found.st_mtime_ns}"
    line = json.dumps(["../precious.png", made, "gone.jpg", "1-1", order.recipe.hash, -1])
    (home,) = (tmp_path / "state" / "catalogs").iterdir()
    (part,) = (home / FOLDER).glob("*.gz")
    part.write_bytes(gzip.compress(line.encode()))
    assert pruned(catalogs, order, target) == []
    assert outside.exists()


def test_above_a_share_nothing_may_be_removed(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    source.delete("a.jpg")
    found = orphans_of(catalogs, order, target)
    assert (len(found.items), found.cutouts) == (1, 4)
    found.check(0.25)
    with pytest.raises(UsageError, match="1 of 4 cutouts"):
        found.check(0.2)


def test_a_listing_hands_on_its_orphans_before_its_job_starts(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    source.delete("a.jpg")
    next_job = replace(order, id=JobId("next"))
    job_store.open(next_job)

    def prune(orphans: Orphans, where: Store) -> None:
        assert job_store.summary(next_job.id).state is JobState.LISTING
        assert len(remove_orphans(where, orphans.items, unexpected)) == 1

    list_job(job_store, catalogs, next_job, source, target, NO_TOKEN, prune=prune)
    assert job_store.summary(next_job.id).state is JobState.FINISHED
    assert files(target) == {"b.png", "d/a.png", "d/c.png"}
    assert orphans_of(catalogs, order, target).items == ()


def test_a_job_with_too_many_orphans_is_forgotten(
    job_store: JobStore, catalogs: Catalogs, order: Job, source: LocalStore, target: LocalStore
) -> None:
    run(job_store, catalogs, order, target)
    source.delete("a.jpg")
    next_job = replace(order, id=JobId("next"))
    job_store.open(next_job)
    with pytest.raises(TooManyOrphans):
        list_job(
            job_store,
            catalogs,
            next_job,
            source,
            target,
            NO_TOKEN,
            prune=lambda orphans, _: orphans.check(0.1),
        )
    assert next_job.id not in job_store.ids()
    left = orphans_of(catalogs, order, target)
    assert (len(left.items), left.cutouts) == (1, 4)
