"""Cutouts that have outlived their sources: found with the help of a catalog, and removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bgpipe.pipeline.errors import ItemError, UsageError
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow
from bgpipe.pipeline.planning.diff import THREADS, TargetState, matches_provenance
from bgpipe.pipeline.planning.planner import plan_job
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job

CUTOUTS = (TargetState.CHANGED, TargetState.CURRENT)
"""How a target stands that is a cutout."""


class TooManyOrphans(UsageError):
    """More cutouts would be removed than may be."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """Rows of the cutouts whose sources are gone, among so many `cutouts` at the target."""

    rows: tuple[CatalogRow, ...]
    cutouts: int

    @property
    def share(self) -> float:
        return len(self.rows) / self.cutouts if self.cutouts else 0.0

    def check(self, most: float) -> None:
        """See that their share is not above `most`.

        Raises:
            TooManyOrphans: it is.

        """
        if self.share > most:
            raise TooManyOrphans(
                f"{len(self.rows)} of {self.cutouts} cutouts have lost their source, more than the "
                f"share {most:g}, and none was removed: see that the source is the right one, or "
                "raise prune.most (BGPIPE_PRUNE__MOST; of a sweep: prune_most)"
            )


def find_orphans(job: Job, source: Store, target: Store, catalog: Catalog) -> Orphans:
    """Survey `job`, and ask the source for each object that it no longer lists.

    A cutout is one only if `catalog` vouches that it is the very object that was made, and if its
    source is not there at all: one that is excluded now, or that may not be looked at, is.

    Raises:
        NoImages: nothing is left of the source: it may be the wrong one.
        UsageError: as of `survey`.

    """
    orphans: list[CatalogRow] = []
    cutouts = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:
        for batch in plan_job(job, source.list(), source, target, catalog):
            unasked = [one for one in batch if isinstance(one, CatalogRow)]
            gone = pool.map(lambda row: _is_gone(source, row.source), unasked)
            orphans += [row for row, is_gone in zip(unasked, gone, strict=True) if is_gone]
            cutouts += sum(isinstance(one, CatalogRow) or one.state in CUTOUTS for one in batch)
    return Orphans(tuple(orphans), cutouts)


def remove(
    target: Store, rows: Iterable[CatalogRow]
) -> Iterator[tuple[CatalogRow, ItemError | None]]:
    """Delete the cutouts one by one; with each that could not be, the reason.

    What was put in a cutout's place since, and what does not itself say how it was made, is left
    alone and does not appear.
    """
    for row in rows:
        try:
            # Shortly before: between the listing and now somebody may have written there.
            found = target.head(row.target)
            if found is None or found.identity != row.made:
                continue
            if not matches_provenance(target, row.target, row.recipe, row.identity):
                continue
            target.delete(row.target)
        except ItemError as error:
            yield row, error
        else:
            yield row, None


def _is_gone(source: Store, key: str) -> bool:
    try:
        return source.head(key) is None
    except ItemError:
        return False
