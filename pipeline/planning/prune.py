"""Find and remove orphans: cutouts whose sources are gone."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress

from bgpipe.pipeline.errors import ItemError, UsageError
from bgpipe.pipeline.planning.catalog import keeps_catalog
from bgpipe.pipeline.planning.diff import THREADS, PlannedItem, TargetState
from bgpipe.pipeline.planning.ownership import read_provenance
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job

WITHOUT_CUTOUT = (TargetState.NEW, TargetState.FOREIGN)


class TooManyOrphans(UsageError):
    """More cutouts would be removed than the settings allow."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """The orphans among the `cutouts` at a target."""

    items: tuple[PlannedItem, ...]
    cutouts: int

    def check(self, maximum_share: float) -> None:
        """Refuse a share above the maximum; TooManyOrphans if it is above."""
        if len(self.items) / max(self.cutouts, 1) > maximum_share:
            raise TooManyOrphans(
                f"{len(self.items)} of {self.cutouts} cutouts have lost their source, more than the "
                f"share {maximum_share:g}, and none was removed: check that the source is the right "
                "one, or raise prune.most (BGPIPE_PRUNE__MOST; of a sweep: prune_most)"
            )


Prune = Callable[[Orphans, Store], None]
"""Handles the orphans at a target, once all of its plan is known."""


def check_prunable(job: Job, target: Store) -> None:
    """Refuse to prune without a catalog, which knows the sources of the cutouts.

    Raises UsageError if none is kept at the target of `job`.
    """
    if keeps_catalog(job, target):
        return
    if job.named:
        raise UsageError(f"--prune needs a folder or a prefix as SOURCE: {job.source}")
    raise UsageError(
        f"--prune does not support ZIP files and hidden names in a bucket: {job.out}: remove orphans "
        "by hand"
    )


def handle_orphans(
    batches: Iterable[list[PlannedItem]], source: Store, target: Store, prune: Prune | None
) -> Iterator[list[PlannedItem]]:
    """Yield the batches of a plan, and then call `prune`, if it is given, with their orphans.

    An orphan is a cutout that the catalog confirms to be the very object that was made, and whose
    source does not exist: one that is merely excluded now, or cannot be read, does.
    """

    def is_gone(planned: PlannedItem) -> bool:
        try:
            return source.head(planned.source.key) is None
        except ItemError:
            return False

    orphans: list[PlannedItem] = []
    cutouts = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="orphan") as pool:
        for batch in batches:
            yield batch
            cutouts += sum(planned.state not in WITHOUT_CUTOUT for planned in batch)
            candidates = [planned for planned in batch if prune and planned.is_orphan]
            orphans += compress(candidates, pool.map(is_gone, candidates))
    if prune:
        prune(Orphans(tuple(orphans), cutouts), target)


def remove_orphans(
    target: Store,
    items: Iterable[PlannedItem],
    on_error: Callable[[PlannedItem, ItemError], None],
) -> list[str]:
    """Delete the orphans one by one, and return the keys of the deleted ones.

    An object that replaced an orphan meanwhile, or whose provenance does not confirm it, is skipped.
    """
    removed = []
    for planned in items:
        key, made_by = planned.target, (planned.recipe, planned.source.identity)
        try:
            listed = target.head(key)
            is_same = listed is not None and listed.identity == planned.made
            if is_same and read_provenance(target, key).matches(*made_by):
                target.delete(key)
                removed.append(key)
        except ItemError as error:
            on_error(planned, error)
    return removed
