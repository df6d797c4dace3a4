"""What a job finds at its target: which cutouts are up to date, and which it has to make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

from bgpipe.pipeline.errors import Code, ItemError
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow, JoinedRow, merge_join
from bgpipe.pipeline.planning.ownership import read_provenance
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job, ObjectInfo

BATCH = 1000
"""Cutouts looked at before the next ones are taken from the plan."""
THREADS = 8
"""Looks at once: a store answers slowly and willingly."""


class TargetState(StrEnum):
    """How a target stands towards its source."""

    NEW = "new"
    CHANGED = "changed"
    CURRENT = "up to date"
    FOREIGN = "not made by bgpipe"


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """An image, its cutout's place, and how the cutout there stands.

    `made` is the identity of a cutout that is up to date, where a catalog is kept.
    """

    entry: ObjectInfo
    target: str
    state: TargetState
    made: str = ""

    @property
    def current(self) -> bool:
        return self.state is TargetState.CURRENT


@dataclass(frozen=True, slots=True)
class UnverifiedTarget:
    """A cutout of which only the object itself can say how it was made.

    `entry` is the source that asks for it; without one, `row` is what was once known of it.
    """

    listed: ObjectInfo
    entry: ObjectInfo | None = None
    row: CatalogRow | None = None


def inspect_targets(
    planned: Iterator[tuple[ObjectInfo, str]], target: Store, job: Job
) -> Iterator[list[PlannedItem]]:
    """Open every cutout, in batches."""

    def look(pair: tuple[ObjectInfo, str]) -> PlannedItem:
        entry, key = pair
        return PlannedItem(entry, key, target_state(target, key, job, entry.identity))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:
        while batch := list(islice(planned, BATCH)):
            yield list(pool.map(look, batch))


def compare(
    planned: Iterator[tuple[ObjectInfo, str]], target: Store, job: Job, catalog: Catalog
) -> Iterator[list[PlannedItem | CatalogRow]]:
    """Compare with what is at the target; only cutouts that `catalog` does not know are opened.

    A bucket is listed; in a folder, where many other things may be, the files are asked for.

    `planned` comes in the order of the targets' keys, and so does what is yielded, in batches. A
    row is of a cutout that was made from this source, and that nothing in `planned` asks for.
    """
    listed = target.list(missing_ok=True) if target.is_remote else ()
    places = merge_join(planned, listed, catalog.rows())
    if not target.is_remote:
        places = (replace(place, listed=_is_present(target, place.key)) for place in places)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:
        while batch := list(islice(places, BATCH)):
            yield _verify(batch, target, job, catalog, pool)


def target_state(target: Store, key: str, job: Job, identity: str) -> TargetState:
    """How the object at `key` stands towards the source with this `identity`: by what it says."""
    try:
        provenance = read_provenance(target, key)
    except ItemError as error:
        return _unreadable(error, job)
    if not provenance.ours:
        return TargetState.CHANGED if job.overwrite else TargetState.FOREIGN
    made = _matches(provenance.text, job.recipe.hash, identity)
    return TargetState.CURRENT if made and not job.force else TargetState.CHANGED


def _unreadable(error: ItemError, job: Job) -> TargetState:
    """An object that denies access may be foreign; any other error is reported by the write."""
    if error.code is Code.MISSING:
        return TargetState.NEW
    foreign = error.code is Code.ACCESS and not job.overwrite
    return TargetState.FOREIGN if foreign else TargetState.CHANGED


def matches_provenance(target: Store, key: str, recipe: str, identity: str) -> bool:
    """Whether the object says that it is of the recipe with this hash and the source so identified.

    Raises:
        ItemError: it cannot be read.

    """
    return _matches(read_provenance(target, key).text, recipe, identity)


def _verify(
    batch: list[JoinedRow], target: Store, job: Job, catalog: Catalog, pool: Executor
) -> list[PlannedItem | CatalogRow]:
    judged = [_classify(place, job, catalog) for place in batch]
    unknown = [found for found in judged if isinstance(found, UnverifiedTarget)]
    looked = pool.map(lambda found: _verify_target(found, target, job), unknown)
    known = (next(looked) if isinstance(found, UnverifiedTarget) else found for found in judged)
    return [found for found in known if found]


def _verify_target(
    found: UnverifiedTarget, target: Store, job: Job
) -> PlannedItem | CatalogRow | None:
    """What the object says of itself; nothing if it is none that `found.row` was about."""
    entry, row, listed = found.entry, found.row, found.listed
    if entry:
        stands = target_state(target, listed.key, job, entry.identity)
        made = listed.identity if stands is TargetState.CURRENT else ""
        return PlannedItem(entry, listed.key, stands, made)
    with suppress(ItemError):
        if row and matches_provenance(target, listed.key, row.recipe, row.identity):
            return replace(row, made=listed.identity, index=-1)
    return None


def _is_present(target: Store, key: str) -> ObjectInfo | None:
    """What is there under the key, if it can be looked at."""
    try:
        return target.head(key)
    except ItemError:
        return None


def _classify(
    place: JoinedRow, job: Job, catalog: Catalog
) -> PlannedItem | UnverifiedTarget | CatalogRow | None:
    """What listing and catalog say; nothing of objects that no source asks for and nobody knows."""
    entry, listed = place.entry, place.listed
    if listed is None:
        return PlannedItem(entry, place.key, TargetState.NEW) if entry else None
    row = place.row if place.row and catalog.confirms(place.row, listed) else None
    if entry is None:
        if row is None:
            return UnverifiedTarget(listed, row=place.row) if place.row else None
        return replace(row, made=listed.identity, index=-1)
    if row is None:
        return UnverifiedTarget(listed, entry)
    if job.force or (row.source, row.identity, row.recipe) != (
        entry.key,
        entry.identity,
        job.recipe.hash,
    ):
        return PlannedItem(entry, place.key, TargetState.CHANGED)
    return PlannedItem(entry, place.key, TargetState.CURRENT, listed.identity)


def _matches(text: Mapping[str, str], recipe: str, identity: str) -> bool:
    made = (_recipe_hash(text.get("bgpipe:recipe", "")), text.get("bgpipe:source"))
    return made == (recipe, identity)


def _recipe_hash(text: str) -> str | None:
    try:
        recipe = json.loads(text)
    except ValueError:
        return None
    return recipe.get("hash") if isinstance(recipe, dict) else None
