"""From a source to a job: list it, plan each cutout's place, leave out what is up to date."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import count

from bgpipe.pipeline.errors import Code, ItemError, NoImages
from bgpipe.pipeline.jobs.manifest import BLOCK
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import Catalog, CatalogRow, Catalogs, CatalogWriter
from bgpipe.pipeline.planning.diff import THREADS, PlannedItem, compare, inspect_targets
from bgpipe.pipeline.planning.ignored import IgnoredObjects, IgnoredReason
from bgpipe.pipeline.planning.ownership import read_provenance
from bgpipe.pipeline.planning.targets import (
    NameTemplate,
    OverlappingLocations,
    TargetCollision,
    assign_by_template,
    assign_targets,
    literal_key,
)
from bgpipe.pipeline.storage.base import Store, has_no_suffix, prefix_within
from bgpipe.pipeline.types import Item, Job, ObjectInfo


def list_job(
    job_store: JobStore,
    catalogs: Catalogs | None,
    job: Job,
    source: Store,
    target: Store,
    token: int,
    growing: Container[str] = (),
    on_work: Callable[[], None] = lambda: None,
) -> IgnoredObjects:
    """List an open job from the beginning, and start it; `token` is of the job's lease.

    Without `catalogs` each cutout is opened, and nothing is noted of what it was made from. The keys in
    `growing` are left for a later job. `on_work` is called as soon as there is something to do, perhaps
    again later. Returns what the job leaves out for good.

    Raises:
        NoImages: nothing is left of the source once `job` has chosen. The job is forgotten.
        Misplaced: cutouts would be written among their sources. The job is forgotten.
        Collision: two cutouts would have one name. The job is forgotten.
        Superseded: another command has taken the job over.

    """
    try:
        return _list(job_store, catalogs, job, source, target, token, growing, on_work)
    except (NoImages, OverlappingLocations, TargetCollision):
        job_store.cancel(job.id)
        job_store.forget(job.id)
        raise


def named_entries(source: Store, named: Iterable[str]) -> Iterator[ObjectInfo]:
    """What is named and not there is an item that fails, not one that vanishes."""
    return (source.head(key) or ObjectInfo(key, 0, "") for key in named)


def plan_job(
    job: Job,
    entries: Iterable[ObjectInfo],
    source: Store,
    target: Store,
    catalog: Catalog | None = None,
    ignored: IgnoredObjects | None = None,
) -> Iterator[list[PlannedItem | CatalogRow]]:
    """What `job` would do, in batches; nothing is written, and little is held.

    With a catalog there are rows too, of cutouts that no source asks for any more. What `entries`
    have beside that is counted in `ignored`: objects without a suffix that are not images, and
    cutouts in a folder.

    Raises:
        NoImages: there is nothing in `entries`.
        UsageError: a cutout would be written among the sources.

    """
    if not literal_key(job.naming):
        _check_locations(source, target)
    ignored = IgnoredObjects() if ignored is None else ignored
    chosen = select_sources(job, entries, source, target, ignored)
    planned = _check_targets_apart(job, source, target, _assign(chosen, job, source, ignored))
    empty = True
    with ThreadPoolExecutor(THREADS, thread_name_prefix="source") as pool:
        for batch in _compare(planned, target, job, catalog):
            kept = list(_without_others(batch, source, pool, ignored))
            empty = empty and all(isinstance(found, CatalogRow) for found in kept)
            yield kept
    if empty:
        raise no_images(source, ignored)


def no_images(source: Store, ignored: IgnoredObjects) -> NoImages:
    """The error of a source of which nothing is left."""
    why = str(ignored) or "check the path"
    return NoImages(f"no images: {source.location}: {why}")


def select_sources(
    job: Job, entries: Iterable[ObjectInfo], source: Store, target: Store, ignored: IgnoredObjects
) -> Iterator[ObjectInfo]:
    """The entries that `job` selects by their keys, those in its own target left out."""
    apart = (
        entries if literal_key(job.naming) else _outside_target(entries, source, target, ignored)
    )
    return match_patterns(apart, job.include, job.exclude, ignored)


def match_patterns(
    entries: Iterable[ObjectInfo],
    include: Sequence[str],
    exclude: Sequence[str],
    ignored: IgnoredObjects,
) -> Iterator[ObjectInfo]:
    """Those matched by any pattern of `include`, which is all if it is empty, and none of `exclude`.

    A pattern matches a whole key or a file name; `*` matches `/` too. The others are counted in
    `ignored`.
    """
    for entry in entries:
        if include and not _matches(entry.key, include):
            ignored.add(IgnoredReason.NOT_INCLUDED, entry.key)
        elif _matches(entry.key, exclude):
            ignored.add(IgnoredReason.EXCLUDED, entry.key)
        else:
            yield entry


class PlanWriter:
    """Writes what a survey finds into a job's books, and into the target's catalog if one is kept."""

    def __init__(
        self, job_store: JobStore, job: Job, token: int, catalog: CatalogWriter | None
    ) -> None:
        self._job_store = job_store
        self._job = job
        self._token = token
        self._catalog = catalog
        self._begun = False
        self._index = count()
        self._skipped = 0
        self._items: list[Item] = []

    @property
    def has_work(self) -> bool:
        """Whether an item was found that is not up to date."""
        return bool(self._items)

    def write(self, batch: Iterable[PlannedItem | CatalogRow]) -> None:
        if self._catalog and not self._begun:
            # Not before: sources that have no image, or the target among them, leave no trace.
            self._catalog.begin()
            self._begun = True
        for found in batch:
            row = found if isinstance(found, CatalogRow) else self._enter(found)
            if self._catalog:
                self._catalog.add(row)
        self._job_store.skip(self._job.id, self._skipped, self._token)
        while len(self._items) >= BLOCK:
            self._job_store.add(self._job.id, self._items[:BLOCK], self._token)
            del self._items[:BLOCK]

    def close(self) -> None:
        self._job_store.add(self._job.id, self._items, self._token)
        if self._catalog:
            self._catalog.close()

    def _enter(self, found: PlannedItem) -> CatalogRow:
        """Count what is up to date, note what is to do; returns the cutout's row."""
        entry, index = found.entry, -1
        if found.current:
            self._skipped += 1
        else:
            index = next(self._index)
            self._items.append(Item(index, entry.key, found.target, entry.identity))
        recipe = self._job.recipe.hash
        return CatalogRow(found.target, found.made, entry.key, entry.identity, recipe, index)


def _list(
    job_store: JobStore,
    catalogs: Catalogs | None,
    job: Job,
    source: Store,
    target: Store,
    token: int,
    growing: Container[str],
    on_work: Callable[[], None],
) -> IgnoredObjects:
    job_store.relist(job.id, token)
    ignored = IgnoredObjects()
    entries = (
        named_entries(source, job_store.named(job.id))
        if job.named
        else source.list(on_skipped=ignored.add_unread)
    )
    catalog = catalogs.of(job, target) if catalogs else None
    clerk = PlanWriter(job_store, job, token, catalog.successor(job) if catalog else None)
    complete = (entry for entry in entries if entry.key not in growing)
    for batch in plan_job(job, complete, source, target, catalog, ignored):
        clerk.write(batch)
        if clerk.has_work:
            on_work()
    clerk.close()
    job_store.start(job.id, token)
    return ignored


def _assign(
    entries: Iterable[ObjectInfo], job: Job, source: Store, ignored: IgnoredObjects
) -> Iterator[tuple[ObjectInfo, str]]:
    def is_image(entry: ObjectInfo) -> bool:
        found = not has_no_suffix(entry.key) or _holds_image(source, entry)
        if not found:
            ignored.add(IgnoredReason.NOT_AN_IMAGE, entry.key)
        return found

    recipe = job.recipe
    if not job.naming:
        return assign_targets(entries, recipe.output.suffix, is_image)
    template = NameTemplate(job.naming, recipe.output.suffix, recipe.model)
    return assign_by_template(filter(is_image, entries), template)


def _without_others(
    batch: Sequence[PlannedItem | CatalogRow],
    source: Store,
    pool: Executor,
    ignored: IgnoredObjects,
) -> Iterator[PlannedItem | CatalogRow]:
    """Yield the batch without what turns out not to be a source once its content is read.

    Of a bucket only keys without a suffix are read: a worker refuses the cutouts there, which it reads
    as a whole in any case.
    """
    unread = [
        found.entry
        for found in batch
        if isinstance(found, PlannedItem) and not found.current
        if not source.is_remote or has_no_suffix(found.entry.key)
    ]
    reasons = pool.map(lambda entry: _why_no_source(source, entry), unread)
    others = {entry.key: why for entry, why in zip(unread, reasons, strict=True) if why}
    for found in batch:
        why = None if isinstance(found, CatalogRow) else others.get(found.entry.key)
        if why and isinstance(found, PlannedItem):
            ignored.add(why, found.entry.key)
        else:
            yield found


def _why_no_source(source: Store, entry: ObjectInfo) -> IgnoredReason | None:
    if has_no_suffix(entry.key) and not _holds_image(source, entry):
        return IgnoredReason.NOT_AN_IMAGE
    return IgnoredReason.CUTOUT if not source.is_remote and _is_cutout(source, entry) else None


def _holds_image(source: Store, entry: ObjectInfo) -> bool:
    """Whether the content is an image's; one that cannot be read is left to a worker to report."""
    # Imported here: the libraries of images take a while that most listings do not need.
    from bgpipe.pipeline.images.formats import SIGNATURE, is_readable

    try:
        return is_readable(source.read_range(entry.key, 0, SIGNATURE))
    except ItemError as error:
        return error.code is not Code.NOT_IMAGE


def _is_cutout(source: Store, entry: ObjectInfo) -> bool:
    try:
        return read_provenance(source, entry.key).ours
    except ItemError:
        return False


def _compare(
    planned: Iterator[tuple[ObjectInfo, str]], target: Store, job: Job, catalog: Catalog | None
) -> Iterator[list[PlannedItem | CatalogRow]]:
    if catalog is None:
        return (list(batch) for batch in inspect_targets(planned, target, job))
    return compare(planned, target, job, catalog)


def _check_locations(source: Store, target: Store) -> None:
    if prefix_within(source.location, target.location) == "":
        raise OverlappingLocations(
            f"cutouts cannot be written among their sources: {target.location}: choose another --out"
        )


def _outside_target(
    entries: Iterable[ObjectInfo], source: Store, target: Store, ignored: IgnoredObjects
) -> Iterator[ObjectInfo]:
    """The source's entries without those that lie in the target."""
    own = prefix_within(source.location, target.location)
    for entry in entries:
        if own is None or not entry.key.startswith(own):
            yield entry
        else:
            ignored.add(IgnoredReason.IN_TARGET, entry.key)


def _check_targets_apart(
    job: Job, source: Store, target: Store, planned: Iterator[tuple[ObjectInfo, str]]
) -> Iterator[tuple[ObjectInfo, str]]:
    """See that nothing is written into a source folder within the target.

    The one file that `job` names may be there, but must not be the source.
    """
    place = prefix_within(target.location, source.location)
    is_file = bool(literal_key(job.naming))
    for entry, key in planned:
        if place is not None and (key == place + entry.key if is_file else key.startswith(place)):
            raise OverlappingLocations(
                f"the cutout would be written among the sources: {entry.key}: choose another --out"
            )
        yield entry, key


def _matches(key: str, patterns: Iterable[str]) -> bool:
    name = key.rpartition("/")[2]
    return any(fnmatchcase(key, pattern) or fnmatchcase(name, pattern) for pattern in patterns)
