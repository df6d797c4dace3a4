"""Compare planned targets with the objects at the target: new, changed, up to date, or foreign."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

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


@dataclass(frozen=True, slots=True)
class PlannedItem:
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
    pairs: Iterable[PlannedTarget],
    target: Store,
    job: Job,
    catalog: Catalog | None,
) -> Iterator[list[PlannedItem]]:
    """Compare with the target, in batches; only targets unknown to `catalog` are opened.

    `pairs` come in the order of the targets' keys, and so do the items. With a catalog, a bucket is
    listed; a folder, which may hold many other files, is asked for each key. Orphans are among the
    items then.
    """
    rows = _join(pairs, target, catalog)
    jobs = [job.with_output(output) for output in job.every_output]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="inspect") as pool:
        while batch := list(islice(rows, BATCH)):
            states = [
                _listed_state(row, jobs[row.output], catalog)
                or pool.submit(_opened_state, row, target, jobs[row.output])
                for row in batch
            ]
            items = (
                _item(row, state.result() if isinstance(state, Future) else state, jobs[row.output])
                for row, state in zip(batch, states, strict=True)
            )
            yield [item for item in items if item]


def target_state(target: Store, key: str, job: Job, identity: str) -> TargetState:
    """Compare the object at `key` with the source of this `identity`, by the object's provenance."""
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
    is_current = provenance.matches(job.recipe.hash, identity) and not job.force
    return TargetState.CURRENT if is_current else TargetState.CHANGED


def _join(
    pairs: Iterable[PlannedTarget], target: Store, catalog: Catalog | None
) -> Iterator[JoinedRow]:
    if catalog is None:
        return (JoinedRow(key, source, None, None, *output) for source, key, *output in pairs)
    listed = target.list(missing_ok=True) if target.is_remote else ()
    rows = merge_join(pairs, listed, catalog.rows())
    if not target.is_remote:
        rows = (replace(row, listed=_head(target, row.key)) for row in rows)
    return (row for row in rows if row.source or (row.listed and row.known))


def _listed_state(row: JoinedRow, job: Job, catalog: Catalog | None) -> TargetState | None:
    """Return none if the object has to be opened."""
    source, known = row.source, row.known
    if catalog and row.listed is None:
        return TargetState.NEW
    if not (catalog and row.listed and known and catalog.confirms(known, row.listed)):
        return None
    if source is None:
        return TargetState.ORPHANED
    expected = (source.key, source.identity, job.recipe.hash)
    is_current = (known.source, known.identity, known.recipe) == expected and not job.force
    return TargetState.CURRENT if is_current else TargetState.CHANGED


def _opened_state(row: JoinedRow, target: Store, job: Job) -> TargetState:
    """Open the target; an object that its catalog row is not about is foreign to it."""
    if row.source:
        return target_state(target, row.key, job, row.source.identity)
    known = row.known
    try:
        is_orphan = known and read_provenance(target, row.key).matches(known.recipe, known.identity)
    except ItemError:
        is_orphan = False
    return TargetState.ORPHANED if is_orphan else TargetState.FOREIGN


def _item(row: JoinedRow, state: TargetState, job: Job) -> PlannedItem | None:
    """Return none for an object without a source that is not an orphan."""
    is_made = state in (TargetState.CURRENT, TargetState.ORPHANED)
    made = row.listed.identity if row.listed and is_made else ""
    if row.source:
        return PlannedItem(row.source, row.key, state, job.recipe.hash, made, row.output)
    if row.known and state is TargetState.ORPHANED:
        source = ObjectInfo(row.known.source, 0, row.known.identity)
        return PlannedItem(source, row.key, state, row.known.recipe, made)
    return None


def _head(target: Store, key: str) -> ObjectInfo | None:
    """Return none for an unreadable object too: its state shows when it is written."""
    try:
        return target.head(key)
    except ItemError:
        return None
