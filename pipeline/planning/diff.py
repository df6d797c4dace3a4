"""Compare planned targets with the objects at the target: new, changed, up to date, or foreign."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from bgpipe.pipeline.errors import Code, ItemError
from bgpipe.pipeline.planning.catalog import Catalog, JoinedRow, merge_join
from bgpipe.pipeline.planning.ownership import read_provenance
from bgpipe.pipeline.planning.targets import PlannedTarget
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


class PlannedItem(NamedTuple):
    """A source, its target's key, and the state of the target.

    `made` is the cutout's identity where it is CURRENT or ORPHANED and a catalog is kept; `recipe` is
    the hash of the output's recipe, or of the one by which an orphan was made. `output` is the position
    of the output in the job.
    """

    source: ObjectInfo
    target: str
    state: TargetState
    recipe: str
    made: str = ""
    output: int = 0

    @property
    def is_work(self) -> bool:
        """Whether a worker has to process the source, even if only to report a foreign target."""
        return not self.is_orphan and self.state is not TargetState.CURRENT

    @property
    def is_orphan(self) -> bool:
        return self.state is TargetState.ORPHANED


def compare(
    pairs: Iterable[PlannedTarget], target: Store, job: Job, catalog: Catalog | None
) -> Iterator[list[PlannedItem]]:
    """Compare with the target, in batches; only targets unknown to `catalog` are opened.

    `pairs` come in the order of the targets' keys, and so do the items. With a catalog, a bucket is
    listed; a folder, which may hold many other files, is asked for each key. Orphans are among the
    items then.
    """
    rows = _join(pairs, target, catalog, [output.recipe.hash for output in job.every_output])
    with ThreadPoolExecutor(THREADS, thread_name_prefix="inspect") as pool:
        while batch := list(islice(rows, BATCH)):
            states = [
                _listed_state(row, item, job, catalog)
                or pool.submit(_opened_state, item, target, job)
                for row, item in batch
            ]
            items = []
            for (row, item), found in zip(batch, states, strict=True):
                state = found.result() if isinstance(found, Future) else found
                is_made = state in (TargetState.CURRENT, TargetState.ORPHANED)
                made = row.listed.identity if row.listed and is_made else ""
                if not item.is_orphan or state is TargetState.ORPHANED:
                    items.append(item._replace(state=state, made=made))
            yield items


def target_state(target: Store, key: str, job: Job, recipe: str, identity: str) -> TargetState:
    """Return the state of the object at `key` by its provenance.

    It is up to date if the recipe of this hash made it from the source of this `identity`.
    """
    try:
        provenance = read_provenance(target, key)
    except ItemError as error:
        if error.code is Code.MISSING:
            return TargetState.NEW
        # An object that denies access may be foreign; any other error is reported by the write.
        is_foreign = error.code is Code.ACCESS and not job.overwrite
        return TargetState.FOREIGN if is_foreign else TargetState.CHANGED
    if not provenance.ours:
        return TargetState.CHANGED if job.overwrite else TargetState.FOREIGN
    is_current = provenance.matches(recipe, identity) and not job.force
    return TargetState.CURRENT if is_current else TargetState.CHANGED


def _join(
    pairs: Iterable[PlannedTarget], target: Store, catalog: Catalog | None, recipes: Sequence[str]
) -> Iterator[tuple[JoinedRow, PlannedItem]]:
    """Yield each row and its item, ORPHANED without a planned source, else CURRENT until it is compared."""
    rows: Iterable[JoinedRow]
    if catalog is None:
        rows = (JoinedRow(pair.key, pair) for pair in pairs)
    elif target.is_remote:
        rows = merge_join(pairs, target.list(missing_ok=True), catalog.rows())
    else:
        joined = merge_join(pairs, (), catalog.rows())
        rows = (row._replace(listed=_head(target, row.key)) for row in joined)
    for row in rows:
        if row.planned:
            source, key, output = row.planned
            recipe = recipes[output]
            yield row, PlannedItem(source, key, TargetState.CURRENT, recipe, output=output)
        elif row.listed and row.known:
            source = ObjectInfo(row.known.source, 0, row.known.identity)
            yield row, PlannedItem(source, row.key, TargetState.ORPHANED, row.known.recipe)


def _listed_state(
    row: JoinedRow, item: PlannedItem, job: Job, catalog: Catalog | None
) -> TargetState | None:
    """Return none if the object has to be opened."""
    known, source = row.known, item.source
    if catalog and row.listed is None:
        return TargetState.NEW
    if not (catalog and row.listed and known and catalog.confirms(known, row.listed)):
        return None
    if item.is_orphan:
        return TargetState.ORPHANED
    expected = (source.key, source.identity, item.recipe)
    is_current = (known.source, known.identity, known.recipe) == expected and not job.force
    return TargetState.CURRENT if is_current else TargetState.CHANGED


def _opened_state(item: PlannedItem, target: Store, job: Job) -> TargetState:
    """Open the target; an object that its catalog row is not about is foreign to it."""
    if not item.is_orphan:
        return target_state(target, item.target, job, item.recipe, item.source.identity)
    try:
        provenance = read_provenance(target, item.target)
    except ItemError:
        return TargetState.FOREIGN
    is_orphan = provenance.matches(item.recipe, item.source.identity)
    return TargetState.ORPHANED if is_orphan else TargetState.FOREIGN


def _head(target: Store, key: str) -> ObjectInfo | None:
    """Return none for an unreadable object too: its state shows when it is written."""
    try:
        return target.head(key)
    except ItemError:
        return None
