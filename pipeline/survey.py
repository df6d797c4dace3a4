"""What a job finds at its target: which cutouts are up to date, and which it has to make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

from bgpipe.pipeline.catalog import Catalog, Place, Row, side_by_side
from bgpipe.pipeline.errors import Code, ItemError
from bgpipe.pipeline.ownership import read_provenance
from bgpipe.pipeline.storage import Store
from bgpipe.pipeline.types import Entry, Job

BATCH = 1000
"""Cutouts looked at before the next ones are taken from the plan."""
THREADS = 8
"""Looks at once: a store answers slowly and willingly."""


class Standing(StrEnum):
    """How a target stands towards its source."""

    NEW = "new"
    CHANGED = "changed"
    CURRENT = "up to date"
    FOREIGN = "not made by bgpipe"


@dataclass(frozen=True, slots=True)
class Planned:
    """An image, its cutout's place, and how the cutout there stands.

    `made` is the identity of a cutout that is up to date, where a catalog is kept.
    """

    entry: Entry
    target: str
    standing: Standing
    made: str = ""

    @property
    def current(self) -> bool:
        return self.standing is Standing.CURRENT


@dataclass(frozen=True, slots=True)
class Unknown:
    """A cutout of which only the object itself can say how it was made.

    `entry` is the source that asks for it; without one, `row` is what was once known of it.
    """

    listed: Entry
    entry: Entry | None = None
    row: Row | None = None


def look_at_each(
    planned: Iterator[tuple[Entry, str]], target: Store, job: Job
) -> Iterator[list[Planned]]:
    """Open every cutout, in batches."""

    def look(pair: tuple[Entry, str]) -> Planned:
        entry, key = pair
        return Planned(entry, key, standing(target, key, job, entry.identity))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:
        while batch := list(islice(planned, BATCH)):
            yield list(pool.map(look, batch))


def compare(
    planned: Iterator[tuple[Entry, str]], target: Store, job: Job, catalog: Catalog
) -> Iterator[list[Planned | Row]]:
    """Compare with what is at the target; only cutouts that `catalog` does not know are opened.

    A bucket is listed; in a folder, where many other things may be, the files are asked for.

    `planned` comes in the order of the targets' keys, and so does what is yielded, in batches. A
    row is of a cutout that was made from this source, and that nothing in `planned` asks for.
    """
    listed = target.list(missing_ok=True) if target.distant else ()
    places = side_by_side(planned, listed, catalog.rows())
    if not target.distant:
        places = (replace(place, listed=_present(target, place.key)) for place in places)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:
        while batch := list(islice(places, BATCH)):
            yield _judged(batch, target, job, catalog, pool)


def standing(target: Store, key: str, job: Job, identity: str) -> Standing:
    """How the object at `key` stands towards the source with this `identity`: by what it says."""
    try:
        provenance = read_provenance(target, key)
    except ItemError as error:
        return _unreadable(error, job)
    if not provenance.ours:
        return Standing.CHANGED if job.overwrite else Standing.FOREIGN
    made = _matches(provenance.text, job.recipe.hash, identity)
    return Standing.CURRENT if made and not job.force else Standing.CHANGED


def _unreadable(error: ItemError, job: Job) -> Standing:
    """An object that denies access may be foreign; any other error is reported by the write."""
    if error.code is Code.MISSING:
        return Standing.NEW
    foreign = error.code is Code.ACCESS and not job.overwrite
    return Standing.FOREIGN if foreign else Standing.CHANGED


def says_it_is(target: Store, key: str, recipe: str, identity: str) -> bool:
    """Whether the object says that it is of the recipe with this hash and the source so identified.

    Raises:
        ItemError: it cannot be read.

    """
    return _matches(read_provenance(target, key).text, recipe, identity)


def _judged(
    batch: list[Place], target: Store, job: Job, catalog: Catalog, pool: Executor
) -> list[Planned | Row]:
    judged = [_judge(place, job, catalog) for place in batch]
    unknown = [found for found in judged if isinstance(found, Unknown)]
    looked = pool.map(lambda found: _asked(found, target, job), unknown)
    known = (next(looked) if isinstance(found, Unknown) else found for found in judged)
    return [found for found in known if found]


def _asked(found: Unknown, target: Store, job: Job) -> Planned | Row | None:
    """What the object says of itself; nothing if it is none that `found.row` was about."""
    entry, row, listed = found.entry, found.row, found.listed
    if entry:
        stands = standing(target, listed.key, job, entry.identity)
        made = listed.identity if stands is Standing.CURRENT else ""
        return Planned(entry, listed.key, stands, made)
    with suppress(ItemError):
        if row and says_it_is(target, listed.key, row.recipe, row.identity):
            return replace(row, made=listed.identity, index=-1)
    return None


def _present(target: Store, key: str) -> Entry | None:
    """What is there under the key, if it can be looked at."""
    try:
        return target.head(key)
    except ItemError:
        return None


def _judge(place: Place, job: Job, catalog: Catalog) -> Planned | Unknown | Row | None:
    """What listing and catalog say; nothing of objects that no source asks for and nobody knows."""
    entry, listed = place.entry, place.listed
    if listed is None:
        return Planned(entry, place.key, Standing.NEW) if entry else None
    row = place.row if place.row and catalog.vouches(place.row, listed) else None
    if entry is None:
        if row is None:
            return Unknown(listed, row=place.row) if place.row else None
        return replace(row, made=listed.identity, index=-1)
    if row is None:
        return Unknown(listed, entry)
    if job.force or (row.source, row.identity, row.recipe) != (
        entry.key,
        entry.identity,
        job.recipe.hash,
    ):
        return Planned(entry, place.key, Standing.CHANGED)
    return Planned(entry, place.key, Standing.CURRENT, listed.identity)


def _matches(text: Mapping[str, str], recipe: str, identity: str) -> bool:
    made = (_recipe_hash(text.get("bgpipe:recipe", "")), text.get("bgpipe:source"))
    return made == (recipe, identity)


def _recipe_hash(text: str) -> str | None:
    try:
        recipe = json.loads(text)
    except ValueError:
        return None
    return recipe.get("hash") if isinstance(recipe, dict) else None
