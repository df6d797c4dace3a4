from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgpipe.pipeline import png
from bgpipe.pipeline.errors import NoImages, UsageError
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.producer import is_current, open_job, plan, select, survey
from bgpipe.pipeline.storage import LocalStore
from bgpipe.pipeline.types import Entry, Job, JobState, Preset, Recipe

# Few names and suffixes, put together often, so that nearly every set of keys collides.
NASTY = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "d/", "d.png/", "d/e/"]),
    st.sampled_from(["a", "A", "a.png", "a.jpg", "é", "a b"]),
    st.lists(st.sampled_from([".png", ".jpg", ".PNG", ".jpeg"]), min_size=1, max_size=3).map(
        "".join
    ),
)


def entries(*names: str) -> list[Entry]:
    return [Entry(name, 1, "1") for name in names]


def targets(*names: str) -> dict[str, str]:
    return {entry.key: target for entry, target in plan(entries(*names))}


def cutout(recipe: Recipe, identity: str) -> bytes:
    text = {"bgpipe:recipe": recipe.text, "bgpipe:source": identity}
    return png.encode(np.zeros((4, 4, 4), np.uint8), text=text)


def photo(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8 no matter, nobody decodes it here")


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


@given(st.sets(NASTY, max_size=20), st.randoms())
def test_a_plan_does_not_depend_on_the_order(names: set[str], random) -> None:
    shuffled = sorted(names)
    random.shuffle(shuffled)
    assert targets(*shuffled) == targets(*sorted(names))


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
    include: list[str], exclude: list[str], expected: list[str]
) -> None:
    listed = entries("a.jpg", "d/a.png", "d/e/b_alpha.png")
    assert [entry.key for entry in select(listed, include, exclude)] == expected


def test_a_cutout_is_current_for_its_own_recipe_and_source_only(
    target: LocalStore, recipe: Recipe
) -> None:
    target.write("a.png", cutout(recipe, "10-1"))
    assert is_current(target, "a.png", recipe, "10-1")
    assert is_current(target, "a.png", replace(recipe, model="the same by another name"), "10-1")
    assert not is_current(target, "a.png", replace(recipe, preset=Preset()), "10-1")
    assert not is_current(target, "a.png", recipe, "10-2")
    assert not is_current(target, "b.png", recipe, "10-1")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"no PNG",
        lambda data: png.encode(np.zeros((4, 4, 4), np.uint8), text={"bgpipe:source": "10-1"}),
        lambda data: png.encode(
            np.zeros((4, 4, 4), np.uint8),
            text={"bgpipe:source": "10-1", "bgpipe:recipe": "[1]"},
        ),
        lambda data: png.encode(
            np.zeros((4, 4, 4), np.uint8), text={"bgpipe:source": "10-1", "bgpipe:recipe": "{"}
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_not_current(
    target: LocalStore, recipe: Recipe, damage
) -> None:
    target.write("a.png", damage(cutout(recipe, "10-1")))
    assert not is_current(target, "a.png", recipe, "10-1")


def test_a_job_skips_what_is_up_to_date_and_lists_the_rest(
    ledger: Ledger, job: Job, source: LocalStore, target: LocalStore
) -> None:
    for number in range(120):
        photo(source.root, f"d/{number:03}.jpg")
    for entry, key in plan(source.list()):
        if entry.key != "d/007.jpg":
            target.write(key, cutout(job.recipe, entry.identity))
    start = time.perf_counter()
    books = open_job(ledger, job, source.list(), source, target, force=False)
    print(f"120 cutouts looked at in {time.perf_counter() - start:.3f} s")
    assert (books.state, books.total, books.skipped, books.queued) == (
        JobState.RUNNING,
        120,
        119,
        1,
    )
    (item,) = ledger.items(job.id, 0, 120)
    assert (item.index, item.source, item.target) == (0, "d/007.jpg", "d/007.png")
    assert item.identity == source.head("d/007.jpg").identity


def test_a_job_with_everything_up_to_date_is_finished(
    ledger: Ledger, job: Job, source: LocalStore, target: LocalStore
) -> None:
    photo(source.root, "a.jpg")
    target.write("a.png", cutout(job.recipe, source.head("a.jpg").identity))
    books = open_job(ledger, job, source.list(), source, target, force=False)
    assert (books.state, books.total, books.skipped) == (JobState.FINISHED, 1, 1)


def test_force_redoes_what_is_up_to_date(
    ledger: Ledger, job: Job, source: LocalStore, target: LocalStore
) -> None:
    photo(source.root, "a.jpg")
    target.write("a.png", cutout(job.recipe, source.head("a.jpg").identity))
    books = open_job(ledger, job, source.list(), source, target, force=True)
    assert (books.skipped, books.queued) == (0, 1)


def test_a_long_listing_keeps_its_order_and_its_indices_dense(
    ledger: Ledger, job: Job, source: LocalStore, target: LocalStore
) -> None:
    listed = entries(*(f"{number:05}.jpg" for number in range(2300)))
    current = range(0, 2300, 20)
    for number in current:
        target.write(f"{number:05}.png", cutout(job.recipe, "1"))
    books = open_job(ledger, job, listed, source, target, force=False)
    assert (books.skipped, books.queued) == (115, 2185)
    kept = list(ledger.items(job.id, 0, 9999))
    assert [item.index for item in kept] == list(range(2185))
    assert [item.source for item in kept] == [
        f"{number:05}.jpg" for number in range(2300) if number not in current
    ]


def test_a_source_without_images_opens_no_job(
    ledger: Ledger, job: Job, source: LocalStore, target: LocalStore
) -> None:
    photo(source.root, "a.jpg")
    narrow = replace(job, exclude=("*.jpg",))
    with pytest.raises(NoImages, match=str(source.root)):
        open_job(ledger, narrow, source.list(), source, target, force=False)
    assert ledger.latest() is None


def test_a_survey_writes_nothing(
    ledger: Ledger, job: Job, source: LocalStore, target: LocalStore
) -> None:
    photo(source.root, "a.jpg")
    (batch,) = survey(job, source.list(), source, target, force=False)
    assert [(image.target, image.current) for image in batch] == [("a.png", False)]
    assert ledger.latest() is None
    assert not target.root.exists()


def test_cutouts_inside_the_source_are_never_read(
    ledger: Ledger, job: Job, source: LocalStore
) -> None:
    inside = LocalStore(source.root / "out")
    photo(source.root, "a.jpg")
    photo(source.root, "outside.jpg")
    photo(inside.root, "old.png")
    open_job(ledger, job, source.list(), source, inside, force=False)
    assert [item.source for item in ledger.items(job.id, 0, 9)] == ["a.jpg", "outside.jpg"]


def test_the_source_itself_is_no_target_not_even_by_a_link(
    ledger: Ledger, job: Job, source: LocalStore, tmp_path: Path
) -> None:
    photo(source.root, "a.jpg")
    (tmp_path / "link").symlink_to(source.root)
    for same in (source, LocalStore(tmp_path / "link")):
        with pytest.raises(UsageError, match="among their sources"):
            open_job(ledger, job, source.list(), source, same, force=False)


def test_no_cutout_is_written_into_a_source_below_the_target(
    ledger: Ledger, job: Job, source: LocalStore, tmp_path: Path
) -> None:
    photo(source.root, "a.jpg")
    above = LocalStore(tmp_path)
    open_job(ledger, job, source.list(), source, above, force=False)
    photo(source.root, "photos/b.jpg")  # would become photos/b.png, a file of the source folder
    with pytest.raises(UsageError, match=r"photos/b\.jpg"):
        open_job(ledger, job, source.list(), source, above, force=False)
