"""Turn a source into the items of a job: select, assign targets, compare, and write the plan."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from bgpipe.pipeline.errors import NoImages
from bgpipe.pipeline.jobs.manifest import BLOCK
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow, Catalogs, CatalogWriter
from bgpipe.pipeline.planning.diff import THREADS, PlannedItem, TargetState, compare
from bgpipe.pipeline.planning.ignored import IgnoredObjects, IgnoredReason
from bgpipe.pipeline.planning.prune import Prune, TooManyOrphans, handle_orphans
from bgpipe.pipeline.planning.sources import (
    check_outside_source,
    is_image,
    named_entries,
    select_sources,
    without_non_sources,
)
from bgpipe.pipeline.planning.targets import (
    NameTemplate,
    OverlappingLocations,
    SourceTarget,
    TargetCollision,
    assign_by_template,
    assign_targets,
)
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Item, Job, ObjectInfo


def list_job(
    jobs: JobStore,
    catalogs: Catalogs | None,
    job: Job,
    source: Store,
    target: Store,
    token: int,
    growing: Container[str] = (),
    on_work: Callable[[], None] = lambda: None,
    prune: Prune | None = None,
) -> IgnoredObjects:
    """List an open job from the beginning, and start it; `token` is of the job's lease.

    Without `catalogs` each target is opened, and no catalog is written. The keys in `growing` are left
    for a later job. `on_work` is called, perhaps repeatedly, once an item needs a worker. `prune` is
    called with the orphans before the job starts. Returns the objects that the job ignores.

    Raises:
        NoImages: the job selects nothing from the source.
        OverlappingLocations: cutouts would be written among their sources.
        TargetCollision: two cutouts would share a name.
        TooManyOrphans: raised by `prune`. The job is forgotten, as after the errors above.
        LeaseLost: another process has taken the job over.
    """
    ignored = IgnoredObjects()
    try:
        jobs.relist(job.id, token)
        entries = (
            named_entries(source, jobs.named(job.id))
            if job.named
            else source.list(on_skipped=ignored.add_unread)
        )
        complete = (entry for entry in entries if entry.key not in growing)
        catalog = catalogs.of(job, target) if catalogs else None
        writer = PlanWriter(jobs, job, token, catalog.successor(job) if catalog else None)
        batches = plan_job(job, complete, source, target, catalog, ignored)
        for batch in handle_orphans(batches, source, target, prune):
            writer.write(batch)
            if writer.size:
                on_work()
        writer.close()
    except (NoImages, OverlappingLocations, TargetCollision, TooManyOrphans):
        jobs.cancel(job.id)
        jobs.forget(job.id)
        raise
    jobs.start(job.id, token)
    return ignored


def plan_job(
    job: Job,
    entries: Iterable[ObjectInfo],
    source: Store,
    target: Store,
    catalog: Catalog | None = None,
    ignored: IgnoredObjects | None = None,
) -> Iterator[list[PlannedItem]]:
    """Plan `job` in batches, in constant memory and without writing.

    With a catalog the orphans are included. Entries that the job leaves out, files without a suffix
    that are not images, and cutouts in a folder are counted in `ignored`.

    Raises:
        NoImages: no entry is left.
        OverlappingLocations, TargetCollision: see `list_job`.
    """
    ignored = IgnoredObjects() if ignored is None else ignored
    selected = select_sources(job, entries, source, target, ignored)
    pairs = check_outside_source(job, source, target, _assign(selected, job, source, ignored))
    is_empty = True
    with ThreadPoolExecutor(THREADS, thread_name_prefix="source") as pool:
        for batch in compare(pairs, target, job, catalog):
            planned = list(without_non_sources(batch, source, pool, ignored))
            is_empty = is_empty and all(item.state is TargetState.ORPHANED for item in planned)
            yield planned
    if is_empty:
        raise no_images(source, ignored)


def no_images(source: Store, ignored: IgnoredObjects) -> NoImages:
    """Return the error of a source from which nothing is selected."""
    return NoImages(f"no images: {source.location}: {str(ignored) or 'check the path'}")


def _assign(
    entries: Iterable[ObjectInfo], job: Job, source: Store, ignored: IgnoredObjects
) -> Iterator[SourceTarget]:
    def is_counted_image(entry: ObjectInfo) -> bool:
        is_source = is_image(source, entry)
        if not is_source:
            ignored.add(IgnoredReason.NOT_AN_IMAGE, entry.key)
        return is_source

    recipe = job.recipe
    if not job.naming:
        return assign_targets(entries, recipe.output.suffix, is_counted_image)
    template = NameTemplate(job.naming, recipe.output.suffix, recipe.model)
    return assign_by_template(filter(is_counted_image, entries), template)


class PlanWriter:
    """Writes batches of a plan into the job's item store and into the target's catalog, if any.

    `token` is that of the job's lease.
    """

    def __init__(self, jobs: JobStore, job: Job, token: int, catalog: CatalogWriter | None) -> None:
        self.size = 0
        """Items that need a worker."""
        self._jobs = jobs
        self._job = job
        self._token = token
        self._catalog = catalog
        self._skipped = 0
        self._pending: list[Item] = []

    def write(self, batch: Iterable[PlannedItem]) -> None:
        for planned in batch:
            source, index = planned.source, -1
            if planned.is_work:
                index = self.size
                self.size += 1
                self._pending.append(Item(index, source.key, planned.target, source.identity))
            self._skipped += planned.state is TargetState.CURRENT
            if self._catalog:
                made_by = (source.key, source.identity, planned.recipe)
                self._catalog.add(CatalogRow(planned.target, planned.made, *made_by, index))
        self._jobs.skip(self._job.id, self._skipped, self._token)
        while len(self._pending) >= BLOCK:
            self._jobs.add(self._job.id, self._pending[:BLOCK], self._token)
            del self._pending[:BLOCK]

    def close(self) -> None:
        self._jobs.add(self._job.id, self._pending, self._token)
        if self._catalog:
            self._catalog.close()
