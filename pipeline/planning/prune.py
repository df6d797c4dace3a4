"""Find and remove orphans: cutouts whose sources are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bgpipe.pipeline.errors import ItemError, UsageError
from bgpipe.pipeline.planning.catalog import keeps_catalog
from bgpipe.pipeline.planning.diff import (
    THREADS,
    PlannedItem,
    TargetState,
    matches_provenance,
)
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job

CUTOUT_STATES = (TargetState.CHANGED, TargetState.CURRENT, TargetState.ORPHANED)


class TooManyOrphans(UsageError):
    """More cutouts would be removed than the settings allow."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """The orphans among the `cutouts` at a target."""

    items: tuple[PlannedItem, ...]
    cutouts: int

    @property
    def share(self) -> float:
        return len(self.items) / self.cutouts if self.cutouts else 0.0

    def check(self, maximum_share: float) -> None:
        """Refuse a share above the maximum.

        Raises:
            TooManyOrphans: it is above.

        """
        if self.share > maximum_share:
            raise TooManyOrphans(
                f"{len(self.items)} of {self.cutouts} cutouts have lost their source, more than the "
                f"share {maximum_share:g}, and none was removed: check that the source is the right "
                "one, or raise prune.most (BGPIPE_PRUNE__MOST; of a sweep: prune_most)"
            )


Prune = Callable[[Orphans, Store], None]
"""Handles the orphans at a target, once all of its plan is known."""


def check_prunable(job: Job, target: Store) -> None:
    """Refuse to prune without a catalog, which knows the sources of the cutouts.

    Raises:
        UsageError: none is kept at the target of `job`.

    """
    if keeps_catalog(job, target):
        return
    if job.named:
        raise UsageError(f"--prune needs a folder or a prefix as SOURCE: {job.source}")
    raise UsageError(
        f"--prune does not support ZIP files and hidden names in a bucket: {job.out}: remove orphans "
        "by hand"
    )


class OrphanFinder:
    """Collects the orphans of a plan.

    An orphan is a cutout that the catalog confirms to be the very object that was made, and whose
    source does not exist: one that is merely excluded now, or cannot be read, does.
    """

    def __init__(self, source: Store) -> None:
        self._source = source
        self._items: list[PlannedItem] = []
        self._cutouts = 0

    def collect(self, batch: Iterable[PlannedItem]) -> None:
        batch = list(batch)
        self._cutouts += sum(planned.state in CUTOUT_STATES for planned in batch)
        candidates = [planned for planned in batch if planned.state is TargetState.ORPHANED]
        if candidates:
            with ThreadPoolExecutor(THREADS, thread_name_prefix="orphan") as pool:
                is_gone = pool.map(self._is_gone, candidates)
                self._items += [
                    item for item, gone in zip(candidates, is_gone, strict=True) if gone
                ]

    @property
    def orphans(self) -> Orphans:
        """The orphans of all batches so far."""
        return Orphans(tuple(self._items), self._cutouts)

    def _is_gone(self, planned: PlannedItem) -> bool:
        try:
            return self._source.head(planned.source.key) is None
        except ItemError:
            return False


def remove_orphans(
    target: Store, items: Iterable[PlannedItem]
) -> Iterator[tuple[PlannedItem, ItemError | None]]:
    """Delete the orphans one by one; yield each, with the error if it could not be deleted.

    An object that replaced an orphan meanwhile, or whose provenance does not confirm it, is skipped.
    """
    for planned in items:
        try:
            listed = target.head(planned.target)
            if listed is None or listed.identity != planned.made:
                continue
            recipe, identity = planned.recipe, planned.source.identity
            if not matches_provenance(target, planned.target, recipe, identity):
                continue
            target.delete(planned.target)
        except ItemError as error:
            yield planned, error
        else:
            yield planned, None
