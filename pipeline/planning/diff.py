"""Compare planned targets with the objects at the target: new, changed, up to date, or foreign."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

from bgpipe.pipeline.errors import Code, ItemError
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow, JoinedRow, merge_join
from bgpipe.pipeline.planning.ownership import read_provenance
from bgpipe.pipeline.planning.targets import SourceTarget
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job, ObjectInfo

BATCH = 1000
"""Targets compared before the next ones are taken from the plan."""
THREADS = 8
"""Concurrent requests to a store."""


class TargetState(StrEnum):
    """A target compared with its source."""

    NEW = "new"
    CHANGED = "changed"
    CURRENT = "up to date"
    FOREIGN = "not made by bgpipe"
    ORPHANED = "without source"
    """A cutout made from a source that the plan does not contain."""
    UNVERIFIED = "not verified"
    """The object has to be opened; never part of a plan."""


@dataclass(frozen=True, slots=True)
class PlannedItem:
    """A source, its target's key, and the state of the target.

    `made` is the cutout's identity where it is CURRENT or ORPHANED and a catalog is kept; `recipe` is
    the hash of the job's recipe, or of the one by which an orphan was made.
    """

    source: ObjectInfo
    target: str
    state: TargetState
    recipe: str
    made: str = ""

    @property
    def is_work(self) -> bool:
        """Whether a worker has to process the source, even if only to report a foreign target."""
        return self.state not in (TargetState.CURRENT, TargetState.ORPHANED)


def inspect_targets(
    pairs: Iterator[SourceTarget], target: Store, job: Job
) -> Iterator[list[PlannedItem]]:
    """Open every target, in batches."""

    def inspect(pair: SourceTarget) -> PlannedItem:
        source, key = pair
        state = target_state(target, key, job, source.identity)
        return PlannedItem(source, key, state, job.recipe.hash)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="inspect") as pool:
        while batch := list(islice(pairs, BATCH)):
            yield list(pool.map(inspect, batch))


def compare(
    pairs: Iterator[SourceTarget], target: Store, job: Job, catalog: Catalog
) -> Iterator[list[PlannedItem]]:
    """Compare with the target, in batches; only targets unknown to `catalog` are opened.

    A bucket is listed; a folder, which may hold many other files, is asked for each key. `pairs` come
    in the order of the targets' keys, and so do the items. Orphans are among them.
    """
    listed = target.list(missing_ok=True) if target.is_remote else ()
    rows = merge_join(pairs, listed, catalog.rows())
    if not target.is_remote:
        rows = (replace(row, listed=_head(target, row.key)) for row in rows)
    related = (row for row in rows if row.source or (row.listed and row.known))
    with ThreadPoolExecutor(THREADS, thread_name_prefix="inspect") as pool:
        while batch := list(islice(related, BATCH)):
            yield list(_compare_batch(batch, target, job, catalog, pool))


def target_state(target: Store, key: str, job: Job, identity: str) -> TargetState:
    """Compare the object at `key` with the source of this `identity`, by the object's provenance."""
    try:
        provenance = read_provenance(target, key)
    except ItemError as error:
        return _unreadable_state(error, job)
    if not provenance.ours:
        return TargetState.CHANGED if job.overwrite else TargetState.FOREIGN
    is_current = _matches(provenance.text, job.recipe.hash, identity) and not job.force
    return TargetState.CURRENT if is_current else TargetState.CHANGED


def matches_provenance(target: Store, key: str, recipe: str, identity: str) -> bool:
    """Whether the object was made by the recipe with this hash from the source of this identity.

    Raises:
        ItemError: it cannot be read.

    """
    return _matches(read_provenance(target, key).text, recipe, identity)


def _compare_batch(
    batch: list[JoinedRow], target: Store, job: Job, catalog: Catalog, pool: Executor
) -> Iterator[PlannedItem]:
    states = [_listed_state(row, job, catalog) for row in batch]
    unverified = (
        row for row, state in zip(batch, states, strict=True) if state is TargetState.UNVERIFIED
    )
    verified = pool.map(lambda row: _verified_state(row, target, job), unverified)
    for row, state in zip(batch, states, strict=True):
        item = _item(row, next(verified) if state is TargetState.UNVERIFIED else state, job)
        if item:
            yield item


def _listed_state(row: JoinedRow, job: Job, catalog: Catalog) -> TargetState:
    """Return the state by listing and catalog alone."""
    source, listed, known = row.source, row.listed, row.known
    if listed is None:
        return TargetState.NEW
    if known is None or not catalog.confirms(known, listed):
        return TargetState.UNVERIFIED
    if source is None:
        return TargetState.ORPHANED
    expected = (source.key, source.identity, job.recipe.hash)
    is_current = (known.source, known.identity, known.recipe) == expected and not job.force
    return TargetState.CURRENT if is_current else TargetState.CHANGED


def _verified_state(row: JoinedRow, target: Store, job: Job) -> TargetState:
    """Open the target; an object that its catalog row is not about is foreign to it."""
    if row.source:
        return target_state(target, row.key, job, row.source.identity)
    known = row.known
    try:
        is_orphan = known and matches_provenance(target, row.key, known.recipe, known.identity)
    except ItemError:
        is_orphan = False
    return TargetState.ORPHANED if is_orphan else TargetState.FOREIGN


def _item(row: JoinedRow, state: TargetState, job: Job) -> PlannedItem | None:
    """Return none for an object without a source that is not an orphan."""
    made = row.listed.identity if row.listed else ""
    match state, row.source, row.known:
        case TargetState.CURRENT, ObjectInfo() as source, _:
            return PlannedItem(source, row.key, state, job.recipe.hash, made)
        case _, ObjectInfo() as source, _:
            return PlannedItem(source, row.key, state, job.recipe.hash)
        case TargetState.ORPHANED, None, CatalogRow() as known:
            source = ObjectInfo(known.source, 0, known.identity)
            return PlannedItem(source, row.key, state, known.recipe, made)
    return None


def _head(target: Store, key: str) -> ObjectInfo | None:
    """Return none for an unreadable object too: its state shows when it is written."""
    try:
        return target.head(key)
    except ItemError:
        return None


def _unreadable_state(error: ItemError, job: Job) -> TargetState:
    """An object that denies access may be foreign; any other error is reported by the write."""
    if error.code is Code.MISSING:
        return TargetState.NEW
    is_foreign = error.code is Code.ACCESS and not job.overwrite
    return TargetState.FOREIGN if is_foreign else TargetState.CHANGED


def _matches(text: Mapping[str, str], recipe: str, identity: str) -> bool:
    made_by = (_recipe_hash(text.get("bgpipe:recipe", "")), text.get("bgpipe:source"))
    return made_by == (recipe, identity)


def _recipe_hash(text: str) -> str | None:
    try:
        recipe = json.loads(text)
    except ValueError:
        return None
    return recipe.get("hash") if isinstance(recipe, dict) else None
