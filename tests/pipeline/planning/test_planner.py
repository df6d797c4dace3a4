from __future__ import annotations

import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgpipe.pipeline.errors import Code, ItemError, NoImages, StorageUnavailable, UsageError
from bgpipe.pipeline.images import png
from bgpipe.pipeline.jobs.manifest import digest
from bgpipe.pipeline.jobs.store import NO_TOKEN, JobStore, LeaseLost
from bgpipe.pipeline.planning.catalog import Catalogs
from bgpipe.pipeline.planning.diff import TargetState, target_state
from bgpipe.pipeline.planning.ownership import check_replaceable
from bgpipe.pipeline.planning.planner import (
    IgnoredObjects,
    IgnoredReason,
    list_job,
    plan_job,
    select_sources,
)
from bgpipe.pipeline.planning.targets import CHUNK_ROWS, assign_targets
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Item, Job, JobId, JobState, JobSummary, ObjectInfo, Preset, Recipe

ROW_BYTES = 500
"""More than a row of the listing below needs in memory."""
JOB = Job(
    JobId("j"), "/photos", "/cutouts", Recipe("nano", "ab" * 32, (256, 320), Preset()), created=0.0
)
Opened = Callable[[Job, LocalStore, LocalStore], JobSummary]

# Few names and suffixes, put together often, so that nearly every set of keys collides.
NASTY = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "d/", "d.png/", "d/e/", "a.q/"]),
    st.sampled_from(["a", "A", "a.png", "a.jpg", "é", "a b"]),
    st.lists(
        st.sampled_from([".png", ".jpg", ".PNG", ".jpeg", ".tif"]), min_size=1, max_size=3
    ).map("".join),
)


def entries(*names: str) -> list[ObjectInfo]:
    return [ObjectInfo(name, 1, "1") for name in names]


def targets(*names: str) -> dict[str, str]:
    return {entry.key: target for entry, target, _ in assign_targets(entries(*sorted(names)), JOB)}


def state(target: LocalStore, key: str, job: Job, identity: str) -> TargetState:
    return target_state(target, key, job, job.recipe.hash, identity)


def cutout(recipe: Recipe, identity: str) -> bytes:
    text = {"bgpipe:recipe": recipe.text, "bgpipe:source": identity}
    return png.encode(np.zeros((4, 4, 4), np.uint8), text=text)


def photo(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8\xff a JPEG by its signature only")


@pytest.fixture
def opened(job_store: JobStore, catalogs: Catalogs) -> Opened:
    """`opened(job, source, target)`: the summary of `job` once it is open and listed."""

    def open_and_list(job: Job, source: LocalStore, target: LocalStore) -> JobSummary:
        job_store.open(job)
        list_job(job_store, catalogs, job, source, target, NO_TOKEN)
        return job_store.summary(job.id)

    return open_and_list


@pytest.fixture
def source(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "photos")


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cutouts")


def test_a_target_keeps_the_path_and_changes_the_suffix() -> None:
    assert targets("a.jpg", "b/c.d/e.tar.webp", "b/f.PNG", "g") == {
        "a.jpg": "a.png",
        "b/c.d/e.tar.webp": "b/c.d/e.tar.png",
        "b/f.PNG": "b/f.png",
        "g": "g.png",
    }


def test_sources_that_would_meet_keep_their_full_names() -> None:
    assert targets("a.jpg", "a.png", "b.jpg", "d/a.jpg") == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "b.jpg": "b.png",
        "d/a.jpg": "d/a.png",
    }


def test_a_source_that_would_meet_a_full_name_gets_its_own() -> None:
    assert targets("a.jpg", "a.png", "a.png.jpg", "a.png.png.jpg") == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "a.png.jpg": "a.png.jpg.png",
        "a.png.png.jpg": "a.png.png.png",
    }


@given(st.sets(NASTY, max_size=40))
@example({"a.jpg", "a.png", "a.png.jpg", "a.png.jpg.jpg", "a.png.jpg.png.jpg"})
def test_no_two_sources_share_a_target(names: set[str]) -> None:
    planned = targets(*names)
    assert set(planned) == names
    assert len(set(planned.values())) == len(names)
    for name, target in planned.items():
        assert target in {f"{name}.png", f"{name.rpartition('.')[0]}.png"}


def whole_plan(names: set[str]) -> dict[str, str]:
    """The plan as it would be made of a listing that is held as a whole."""
    short = {name: f"{name.rpartition('.')[0]}.png" for name in names}
    full = {name: f"{name}.png" for name in names}
    planned = dict(short)
    while True:
        used = Counter(planned.values())
        clashing = [name for name in names if used[planned[name]] > 1]
        if all(planned[name] == full[name] for name in clashing):
            return planned
        planned.update((name, full[name]) for name in clashing)


@given(st.sets(NASTY, max_size=40))
@example({"a.d/b.jpg", "a.d/b.png", "a.jpg", "a.png", "a b.jpg", "a-1.jpg"})
def test_a_plan_is_what_it_would_be_with_all_sources_in_view(names: set[str]) -> None:
    assert targets(*names) == whole_plan(names)


def test_a_source_without_a_suffix_keeps_its_target_to_itself() -> None:
    assert targets("a", "a b.jpg", "a-1.jpg", "a.jpg", ".a", ".a.jpg", "b/a") == {
        "a": "a.png",
        "a b.jpg": "a b.png",
        "a-1.jpg": "a-1.png",
        "a.jpg": "a.jpg.png",
        ".a": ".a.png",
        ".a.jpg": ".a.jpg.png",
        "b/a": "b/a.png",
    }


@pytest.mark.slow
def test_a_long_plan_waits_in_files() -> None:
    listed = (ObjectInfo(f"{number:06}.jpg", 1, "1") for number in range(4 * CHUNK_ROWS))
    tracemalloc.start()
    planned = assign_targets(listed, JOB)
    held = next(planned)[1], tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held[0] == "000000.png"
    assert held[1] < 3 * CHUNK_ROWS * ROW_BYTES


@pytest.mark.parametrize("names", [("b.jpg", "a.jpg"), ("a.jpg", "a.jpg")])
def test_a_listing_out_of_order_is_refused(names: tuple[str, str]) -> None:
    with pytest.raises(StorageUnavailable, match="out of order"):
        list(assign_targets(entries(*names), JOB))


@given(st.sets(NASTY, max_size=40))
@example({"shop.s/x.jpg", "shop.s/y.jpg", "shop.tif", "shop.webp/x.jpg"})
def test_targets_come_in_the_order_of_their_keys(names: set[str]) -> None:
    planned = [target for _, target, _ in assign_targets(entries(*sorted(names)), JOB)]
    assert planned == sorted(planned)


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ([], [], ["a.jpg", "d/a.png", "d/e/b_alpha.png"]),
        ([], ["*_alpha.png"], ["a.jpg", "d/a.png"]),
        (["*.png"], ["*_alpha.png"], ["d/a.png"]),
        (["a.jpg", "d/e/*"], [], ["a.jpg", "d/e/b_alpha.png"]),
        (["d/*"], [], ["d/a.png", "d/e/b_alpha.png"]),
        (["a.*"], [], ["a.jpg", "d/a.png"]),
        (["*.PNG"], [], []),
        ([], ["*.jpg", "d/*"], []),
    ],
)
def test_patterns_match_keys_or_file_names(
    include: list[str],
    exclude: list[str],
    expected: list[str],
    job: Job,
    source: LocalStore,
    target: LocalStore,
) -> None:
    listed = entries("a.jpg", "d/a.png", "d/e/b_alpha.png")
    ignored = IgnoredObjects()
    job = replace(job, include=tuple(include), exclude=tuple(exclude))
    chosen = select_sources(job, listed, source, target, ignored)
    assert [entry.key for entry in chosen] == expected
    assert ignored.reasons.total() == len(listed) - len(expected)


def test_a_cutout_is_current_for_its_own_recipe_and_source_only(
    target: LocalStore, job: Job
) -> None:
    def with_recipe(**changes: object) -> Job:
        return replace(job, recipe=replace(job.recipe, **changes))

    target.write("a.png", cutout(job.recipe, "10-1"))
    renamed, other = with_recipe(model="the same by another name"), with_recipe(preset=Preset())
    assert state(target, "a.png", job, "10-1") is TargetState.CURRENT
    assert state(target, "a.png", renamed, "10-1") is TargetState.CURRENT
    assert state(target, "a.png", other, "10-1") is TargetState.CHANGED
    assert state(target, "a.png", job, "10-2") is TargetState.CHANGED
    assert state(target, "a.png", replace(job, force=True), "10-1") is TargetState.CHANGED
    assert state(target, "b.png", job, "10-1") is TargetState.NEW


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-20],
        lambda data: png.encode(
            np.zeros((4, 4, 4), np.uint8),
            text={"bgpipe:source": "10-1", "bgpipe:recipe": "[1]"},
        ),
        lambda data: png.encode(
            np.zeros((4, 4, 4), np.uint8), text={"bgpipe:source": "10-1", "bgpipe:recipe": "{"}
        ),
    ],
)
def test_a_damaged_cutout_is_made_again(target: LocalStore, job: Job, damage) -> None:
    target.write("a.png", damage(cutout(job.recipe, "10-1")))
    assert state(target, "a.png", job, "10-1") is TargetState.CHANGED
    check_replaceable(target, "a.png")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no PNG",
        png.encode(np.zeros((4, 4, 4), np.uint8), text={"bgpipe:source": "10-1"}),
        b"\xff\xd8\xff a JPEG without provenance \xff\xd9",
    ],
)
def test_a_file_that_bgpipe_did_not_make_is_foreign(
    target: LocalStore, job: Job, content: bytes
) -> None:
    target.write("a.png", content)
    assert state(target, "a.png", job, "10-1") is TargetState.FOREIGN
    assert state(target, "a.png", replace(job, force=True), "10-1") is TargetState.FOREIGN
    assert state(target, "a.png", replace(job, overwrite=True), "10-1") is TargetState.CHANGED
    with pytest.raises(ItemError, match="was not made by bgpipe: pass --overwrite") as raised:
        check_replaceable(target, "a.png")
    assert raised.value.code is Code.TARGET


def test_what_is_not_there_and_what_is_a_folder_is_left_to_the_write(target: LocalStore) -> None:
    check_replaceable(target, "a.png")
    (target.root / "b.png").mkdir(parents=True)
    check_replaceable(target, "b.png")


def test_files_without_a_suffix_are_judged_by_their_content(
    job: Job, source: LocalStore, target: LocalStore
) -> None:
    for name in ("0a1b", "d/4f", "photo.jpg", "README.jpg"):
        photo(source.root, name)
    (source.root / "README").write_text("no photo")
    (source.root / "d" / "LICENSE").touch()
    (source.root / "clip.mov").touch()
    ignored = IgnoredObjects()
    listed = source.list(on_skipped=ignored.add_unread)
    (batch,) = plan_job(job, listed, source, target, ignored=ignored)
    assert {item.source.key: item.target for item in batch} == {
        "0a1b": "0a1b.png",
        "d/4f": "d/4f.png",
        "photo.jpg": "photo.png",
        "README.jpg": "README.png",
    }
    assert str(ignored) == "3 ignored: 2 without suffix, 1 .mov are not read"


def test_a_file_without_a_suffix_that_is_an_image_keeps_its_place(
    job: Job, source: LocalStore, target: LocalStore
) -> None:
    for name in ("a", "a-b.jpg", "a.jpg", "a.x.jpg", "a/b.jpg"):
        photo(source.root if name != "a/b.jpg" else source.root / "sub", name)
    (batch,) = plan_job(job, source.list(), source, target)
    assert [(item.source.key, item.target) for item in batch] == [
        ("a-b.jpg", "a-b.png"),
        ("a.jpg", "a.jpg.png"),
        ("a", "a.png"),
        ("a.x.jpg", "a.x.png"),
        ("sub/a/b.jpg", "sub/a/b.png"),
    ]


def test_cutouts_are_not_sources(job: Job, source: LocalStore, target: LocalStore) -> None:
    photo(source.root, "a.jpg")
    source.write("old.png", cutout(job.recipe, "10-1"))
    ignored = IgnoredObjects()
    (batch,) = plan_job(job, source.list(), source, target, ignored=ignored)
    assert [item.source.key for item in batch] == ["a.jpg"]
    assert ignored.reasons == {IgnoredReason.CUTOUT: 1}
    (source.root / "a.jpg").unlink()
    with pytest.raises(NoImages, match="1 ignored: 1 made by bgpipe"):
        list(plan_job(job, source.list(), source, target))


def test_a_job_skips_what_is_up_to_date_and_lists_the_rest(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, opened: Opened
) -> None:
    for number in range(120):
        photo(source.root, f"d/{number:03}.jpg")
    for entry, key, _ in assign_targets(source.list(), job):
        if entry.key != "d/007.jpg":
            target.write(key, cutout(job.recipe, entry.identity))
    start = time.perf_counter()
    summary = opened(job, source, target)
    print(f"120 cutouts looked at in {time.perf_counter() - start:.3f} s")
    assert (summary.state, summary.total, summary.skipped, summary.queued) == (
        JobState.RUNNING,
        120,
        119,
        1,
    )
    (item,) = job_store.items.read(job.id, 0, 120)
    assert (item.index, item.source, item.target) == (0, "d/007.jpg", "d/007.png")
    assert item.identity == source.head("d/007.jpg").identity


def test_a_job_with_everything_up_to_date_is_finished(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, opened: Opened
) -> None:
    photo(source.root, "a.jpg")
    target.write("a.png", cutout(job.recipe, source.head("a.jpg").identity))
    summary = opened(job, source, target)
    assert (summary.state, summary.total, summary.skipped) == (JobState.FINISHED, 1, 1)


def test_force_redoes_what_is_up_to_date(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, opened: Opened
) -> None:
    photo(source.root, "a.jpg")
    target.write("a.png", cutout(job.recipe, source.head("a.jpg").identity))
    summary = opened(replace(job, force=True), source, target)
    assert (summary.skipped, summary.queued) == (0, 1)


def test_a_long_listing_keeps_its_order_and_its_indices_dense(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, opened: Opened
) -> None:
    names = [f"{number:05}.jpg" for number in range(2300)]
    for name in names:
        photo(source.root, name)
    current = range(0, 2300, 20)
    for number in current:
        identity = source.head(names[number]).identity
        target.write(f"{number:05}.png", cutout(job.recipe, identity))
    summary = opened(job, source, target)
    assert (summary.skipped, summary.queued) == (115, 2185)
    kept = list(job_store.items.read(job.id, 0, 9999))
    assert [item.index for item in kept] == list(range(2185))
    assert [item.source for item in kept] == [
        f"{number:05}.jpg" for number in range(2300) if number not in current
    ]


def test_a_source_without_images_opens_no_job(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, opened: Opened
) -> None:
    photo(source.root, "a.jpg")
    narrow = replace(job, exclude=("*.jpg",))
    with pytest.raises(NoImages, match=str(source.root)):
        opened(narrow, source, target)
    assert job_store.latest() is None


def test_a_survey_writes_nothing(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore
) -> None:
    photo(source.root, "a.jpg")
    (batch,) = plan_job(job, source.list(), source, target)
    assert [(item.target, item.is_work) for item in batch] == [("a.png", True)]
    assert job_store.latest() is None
    assert not target.root.exists()


def test_cutouts_inside_the_source_are_never_read(
    job_store: JobStore, job: Job, source: LocalStore, opened: Opened
) -> None:
    inside = LocalStore(source.root / "out")
    photo(source.root, "a.jpg")
    photo(source.root, "outside.jpg")
    photo(inside.root, "old.png")
    opened(job, source, inside)
    assert [item.source for item in job_store.items.read(job.id, 0, 9)] == ["a.jpg", "outside.jpg"]


def test_the_source_itself_is_no_target_not_even_by_a_link(
    job_store: JobStore, job: Job, source: LocalStore, tmp_path: Path, opened: Opened
) -> None:
    photo(source.root, "a.jpg")
    (tmp_path / "link").symlink_to(source.root)
    for same in (source, LocalStore(tmp_path / "link")):
        with pytest.raises(UsageError, match="among their sources"):
            opened(job, source, same)


def test_no_cutout_is_written_into_a_source_below_the_target(
    job_store: JobStore, job: Job, source: LocalStore, tmp_path: Path, opened: Opened
) -> None:
    photo(source.root, "a.jpg")
    above = LocalStore(tmp_path)
    opened(job, source, above)
    photo(source.root, "photos/b.jpg")  # would become photos/b.png, a file of the source folder
    second = replace(job, id=JobId("second"), out="/elsewhere")
    with pytest.raises(UsageError, match=r"photos/b\.jpg"):
        opened(second, source, above)
    assert job_store.ids() == [job.id]


def test_a_listing_that_was_broken_off_is_begun_again(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, catalogs: Catalogs
) -> None:
    for number in range(30):
        photo(source.root, f"{number:02}.jpg")
    job_store.open(job)
    job_store.relist(job.id, token=1)
    job_store.add(job.id, [Item(0, "gone.jpg", "gone.png", "1")], token=1)
    job_store.skip(job.id, 5, token=1)
    list_job(job_store, catalogs, job, source, target, token=2)
    summary = job_store.summary(job.id)
    assert (summary.total, summary.skipped) == (30, 0)
    assert [item.source for item in job_store.items.read(job.id, 0, 99)] == [
        f"{number:02}.jpg" for number in range(30)
    ]


def test_who_listed_before_and_wakes_up_changes_nothing(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, catalogs: Catalogs
) -> None:
    photo(source.root, "a.jpg")
    job_store.open(job)
    job_store.relist(job.id, token=1)
    list_job(job_store, catalogs, job, source, target, token=2)
    late = [Item(1, "b.jpg", "b.png", "1")]
    for act in (
        lambda: job_store.relist(job.id, token=1),
        lambda: job_store.add(job.id, late, token=1),
        lambda: job_store.skip(job.id, 9, token=1),
        lambda: job_store.start(job.id, token=1),
    ):
        with pytest.raises(LeaseLost):
            act()
    assert job_store.summary(job.id).total == 1


def test_named_sources_are_listed_again_by_their_names(
    job_store: JobStore, job: Job, source: LocalStore, target: LocalStore, catalogs: Catalogs
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        photo(source.root, name)
    names = ["a.jpg", "c.jpg", "gone.jpg"]
    order = replace(job, named=digest(names))
    job_store.open(order, names)
    list_job(job_store, catalogs, job_store.job(job.id), source, target, token=1)
    assert [item.source for item in job_store.items.read(job.id, 0, 9)] == names
    assert job_store.named(job.id) == []  # no longer needed
