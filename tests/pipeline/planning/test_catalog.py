from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.jobs.items import FINGERPRINT_BYTES, ItemStore, fingerprint
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import (
    PART_ROWS,
    RECIPE,
    Catalog,
    CatalogRow,
    header_key,
    merge_join,
)
from bgpipe.pipeline.planning.targets import PlannedTarget
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, JobId, ObjectInfo

SOURCE = "s3://shop/photos"
KEYS = st.sets(st.text("ab./é", min_size=1, max_size=4), max_size=12)


@pytest.fixture
def items(client: RedisClient) -> ItemStore:
    return JobStore(client).items


@pytest.fixture
def target(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cutouts")


def row(key: str, made: str = "made", index: int = -1) -> CatalogRow:
    return CatalogRow(f"{key}.png", made, f"{key}.jpg", "identity", "recipe", index)


def write(target: LocalStore, items: ItemStore, job: Job, *rows: CatalogRow) -> None:
    writer = Catalog(target, SOURCE, items).successor(job)
    for each in rows:
        writer.add(each)
    writer.close()


@pytest.fixture
def job(job: Job) -> Job:
    return replace(job, source=SOURCE)


def test_of_an_empty_target_nothing_is_known(target: LocalStore, items: ItemStore) -> None:
    assert list(Catalog(target, SOURCE, items).rows()) == []


def test_rows_are_read_as_they_were_written(target: LocalStore, items: ItemStore, job: Job) -> None:
    rows = [row(f"größe/{number:06}") for number in range(PART_ROWS + 1)]
    write(target, items, job, *rows)
    catalog = Catalog(target, SOURCE, items)
    assert len(catalog.parts) == 2
    assert list(catalog.rows()) == rows


def test_a_catalog_is_hidden_and_takes_the_place_of_the_one_before(
    target: LocalStore, items: ItemStore, job: Job
) -> None:
    write(target, items, job, row("a"))
    before = Catalog(target, SOURCE, items)
    write(target, items, replace(job, id=JobId("tuesday")), row("b"))
    after = Catalog(target, SOURCE, items)
    assert list(after.rows()) == [row("b")]
    assert list(target.list()) == []
    assert not any(target.head(part) for part in before.parts)


def test_until_it_is_closed_the_one_before_holds(
    target: LocalStore, items: ItemStore, job: Job
) -> None:
    write(target, items, job, row("a"))
    writer = Catalog(target, SOURCE, items).successor(replace(job, id=JobId("tuesday")))
    for number in range(PART_ROWS):
        writer.add(row(f"{number:06}"))
    assert list(Catalog(target, SOURCE, items).rows()) == [row("a")]


def test_each_source_has_a_catalog_of_its_own(
    target: LocalStore, items: ItemStore, job: Job
) -> None:
    write(target, items, job, row("a"))
    other = replace(job, source="s3://shop/other")
    assert list(Catalog(target, other.source, items).rows()) == []
    writer = Catalog(target, other.source, items).successor(other)
    writer.add(row("b"))
    writer.close()
    assert list(Catalog(target, SOURCE, items).rows()) == [row("a")]
    assert list(Catalog(target, other.source, items).rows()) == [row("b")]


def test_the_recipe_is_there_first_and_a_folder_without_right_does_without_a_catalog(
    target: LocalStore, items: ItemStore, job: Job
) -> None:
    writer = Catalog(target, SOURCE, items).successor(job)
    writer.add(row("a"))
    assert target.read(RECIPE, 9999).decode() == job.recipe.text
    (target.root / "file").touch()
    blocked = LocalStore(target.root / "file")
    writer = Catalog(blocked, SOURCE, items).successor(job)
    writer.add(row("a"))
    writer.close()
    assert list(Catalog(blocked, SOURCE, items).rows()) == []


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[1]",
        b'{"version": 2}',
        b'{"version": 1, "source": "s3://shop/photos", "job": "x"}',
        b'{"version": 1, "source": "s3://shop/photos", "job": "x", "parts": ["../../x"]}',
    ],
)
def test_a_damaged_header_says_nothing(target: LocalStore, items: ItemStore, header: bytes) -> None:
    target.write(header_key(SOURCE), header)
    assert list(Catalog(target, SOURCE, items).rows()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"x" * 99)[:-9], gzip.compress(b"[1]"), gzip.compress(b"[")],
    ids=["empty", "not gzip", "truncated", "not a row", "not JSON"],
)
def test_a_damaged_part_says_nothing(
    target: LocalStore, items: ItemStore, job: Job, content: bytes
) -> None:
    write(target, items, job, row("a"))
    catalog = Catalog(target, SOURCE, items)
    target.write(catalog.parts[0], content)
    assert list(catalog.rows()) == []


def test_a_fact_is_about_one_object_only(target: LocalStore, items: ItemStore, job: Job) -> None:
    catalog = Catalog(target, SOURCE, items)
    assert catalog.confirms(row("a", made="1"), ObjectInfo("a.png", 5, "1"))
    assert not catalog.confirms(row("a", made="1"), ObjectInfo("a.png", 5, "2"))


def test_a_promise_holds_for_the_object_that_its_worker_has_sealed(
    target: LocalStore, items: ItemStore, job: Job, client: RedisClient
) -> None:
    rows = [row("a", "", 0), row("b", "", 9000), row("c", "", 1)]
    write(target, items, job, *rows)
    for index, identity in ((9000, "b1"), (0, "a1")):
        offset = FINGERPRINT_BYTES * index
        client.setrange(keys.of_job(job.id).fingerprints, offset, fingerprint(identity))
    a, b, c = Catalog(target, SOURCE, items).rows()
    catalog = Catalog(target, SOURCE, items)
    assert catalog.confirms(a, ObjectInfo("a.png", 5, "a1"))
    assert not catalog.confirms(a, ObjectInfo("a.png", 5, "a2"))
    assert catalog.confirms(b, ObjectInfo("b.png", 5, "b1"))
    assert not catalog.confirms(c, ObjectInfo("c.png", 5, ""))


@given(KEYS, KEYS, KEYS)
def test_all_three_are_joined_in_the_order_of_their_keys(
    planned: set[str], listed: set[str], known: set[str]
) -> None:
    def ordered(keys: set[str]) -> list[str]:
        return sorted(keys, key=str.encode)

    places = merge_join(
        [PlannedTarget(ObjectInfo(f"of {key}", 1, ""), key) for key in ordered(planned)],
        [ObjectInfo(key, 1, "") for key in ordered(listed)],
        [CatalogRow(key, "", "", "", "") for key in ordered(known)],
    )
    joined = [
        (
            place.key,
            place.planned and place.planned.source.key,
            place.listed and place.listed.key,
            place.known and place.known.target,
        )
        for place in places
    ]
    assert joined == [
        (
            key,
            f"of {key}" if key in planned else None,
            key if key in listed else None,
            key if key in known else None,
        )
        for key in ordered(planned | listed | known)
    ]
