"""Turn a source into the items of a job: select, assign targets, compare, and write the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from bgpipe.pipeline.errors import Code, ItemError, NoImages
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.catalog import Catalog, Catalogs
from bgpipe.pipeline.planning.diff import THREADS, PlannedItem, compare
from bgpipe.pipeline.planning.ownership import read_provenance
from bgpipe.pipeline.planning.plan_writer import add_items, by_image, write_rows
from bgpipe.pipeline.planning.prune import Prune, TooManyOrphans, handle_orphans
from bgpipe.pipeline.planning.targets import (
    OverlappingLocations,
    PlannedTarget,
    TargetCollision,
    assign_targets,
    literal_key,
)
from bgpipe.pipeline.storage.base import RAW_SUFFIXES, Store, has_no_suffix, prefix_within
from bgpipe.pipeline.types import Job, ObjectInfo


class IgnoredReason(StrEnum):
    NOT_AN_IMAGE = "not read"
    NOT_INCLUDED = "not included"
    EXCLUDED = "excluded"
    IN_TARGET = "in the target"
    CUTOUT = "made by bgpipe"


@dataclass(slots=True)
class IgnoredObjects:
    """Objects of a source that a job ignores. Counts by reason; those of NOT_AN_IMAGE also by suffix."""

    reasons: Counter[IgnoredReason] = field(default_factory=Counter)
    suffixes: Counter[str] = field(default_factory=Counter)

    def add(self, reason: IgnoredReason, key: str) -> None:
        self.reasons[reason] += 1
        if reason is IgnoredReason.NOT_AN_IMAGE:
            self.suffixes[PurePosixPath(key).suffix or "without suffix"] += 1

    def add_unread(self, key: str) -> None:
        """Count an object whose name is not an image's."""
        self.add(IgnoredReason.NOT_AN_IMAGE, key)

    def include(self, others: IgnoredObjects) -> None:
        self.reasons += others.reasons
        self.suffixes += others.suffixes

    def record(self) -> dict[str, dict[str, int]]:
        """Return the counts for JSON."""
        return {
            "ignored": {str(reason): count for reason, count in self.reasons.items()},
            "ignored_suffixes": dict(self.suffixes),
        }

    def __str__(self) -> str:
        """`4 ignored: 2 .CR2, 1 .psd are not read; 1 excluded`; empty if there are none."""
        parts = []
        if self.suffixes:
            by_count = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
            counts = ", ".join(f"{count:,} {name}" for name, count in by_count)
            parts.append(f"{counts} {'is' if self.suffixes.total() == 1 else 'are'} not read")
        if not RAW_SUFFIXES.isdisjoint(map(str.lower, self.suffixes)):
            parts.append("for camera RAW: pip install 'bgpipe[raw]'")
        parts += [
            f"{count:,} {reason}"
            for reason, count in self.reasons.items()
            if reason is not IgnoredReason.NOT_AN_IMAGE
        ]
        return f"{self.reasons.total():,} ignored: {'; '.join(parts)}" if parts else ""


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
        successor = catalog.successor(job) if catalog else None
        batches = plan_job(job, complete, source, target, catalog, ignored)
        planned = handle_orphans(batches, source, target, prune)
        rows = add_items(jobs, job, token, by_image(job, planned), on_work)
        write_rows(job, rows, successor)
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
    pairs = _assign(selected, job, source, target, ignored)
    is_empty = True
    with ThreadPoolExecutor(THREADS, thread_name_prefix="source") as pool:
        for batch in compare(pairs, target, job, catalog):
            planned = list(_without_non_sources(batch, source, pool, ignored))
            is_empty = is_empty and all(item.is_orphan for item in planned)
            yield planned
    if is_empty:
        raise no_images(source, ignored)


def no_images(source: Store, ignored: IgnoredObjects) -> NoImages:
    """Return the error of a source from which nothing is selected."""
    return NoImages(f"no images: {source.location}: {str(ignored) or 'check the path'}")


def _assign(
    entries: Iterable[ObjectInfo], job: Job, source: Store, target: Store, ignored: IgnoredObjects
) -> Iterator[PlannedTarget]:
    """Yield the images with their targets' keys; refuse a target in a source folder within `target`.

    The one file that `job` names may be there, but must not be the source.
    """

    def is_counted_image(entry: ObjectInfo) -> bool:
        is_source = _is_image(source, entry)
        if not is_source:
            ignored.add(IgnoredReason.NOT_AN_IMAGE, entry.key)
        return is_source

    if any(output.naming for output in job.every_output):  # a template names each image by itself
        pairs = assign_targets(filter(is_counted_image, entries), job)
    else:
        pairs = assign_targets(entries, job, is_counted_image)
    prefix = prefix_within(target.location, source.location)
    is_file = bool(literal_key(job.naming))
    for pair in pairs:
        key, source_key = pair.key, pair.source.key
        if prefix is not None and (
            key == prefix + source_key if is_file else key.startswith(prefix)
        ):
            raise OverlappingLocations(
                f"the cutout would be written among the sources: {source_key}: choose another --out"
            )
        yield pair


def named_entries(source: Store, named: Iterable[str]) -> Iterator[ObjectInfo]:
    """Yield every key; a missing object becomes an item that fails."""
    return (source.head(key) or ObjectInfo(key, 0, "") for key in named)


def select_sources(
    job: Job, entries: Iterable[ObjectInfo], source: Store, target: Store, ignored: IgnoredObjects
) -> Iterator[ObjectInfo]:
    """Yield the entries that the patterns of `job` select, without those in its target.

    An entry must match a pattern of `include`, if there is any, and none of `exclude`. A pattern
    matches a whole key or a file name; `*` matches `/` too. Other entries are counted in `ignored`.

    Raises OverlappingLocations if source and target are the same folder or prefix.
    """
    is_file = bool(literal_key(job.naming))
    in_target = None if is_file else prefix_within(source.location, target.location)
    if in_target == "":
        raise OverlappingLocations(
            f"cutouts cannot be written among their sources: {target.location}: choose another --out"
        )
    for entry in entries:
        if in_target and entry.key.startswith(in_target):
            ignored.add(IgnoredReason.IN_TARGET, entry.key)
        elif job.include and not _matches(entry.key, job.include):
            ignored.add(IgnoredReason.NOT_INCLUDED, entry.key)
        elif _matches(entry.key, job.exclude):
            ignored.add(IgnoredReason.EXCLUDED, entry.key)
        else:
            yield entry


def _without_non_sources(
    batch: Sequence[PlannedItem], source: Store, pool: Executor, ignored: IgnoredObjects
) -> Iterator[PlannedItem]:
    """Yield the batch without files that are not images, and without cutouts in a folder.

    Of a bucket only keys without a suffix are read: a worker, which reads the whole object anyway,
    refuses cutouts there.
    """
    reasons = {
        planned.target: pool.submit(_ignored_reason, source, planned.source)
        for planned in batch
        if planned.is_work and (not source.is_remote or has_no_suffix(planned.source.key))
    }
    for planned in batch:
        if planned.target in reasons and (reason := reasons[planned.target].result()):
            if planned.output == 0:
                ignored.add(reason, planned.source.key)
        else:
            yield planned


def _is_image(source: Store, entry: ObjectInfo) -> bool:
    """Whether name or content are an image's; a worker reports an object that cannot be read."""
    if not has_no_suffix(entry.key):
        return True
    # Imported here: most listings do not need the imaging libraries, which load slowly.
    from bgpipe.pipeline.images.formats import SIGNATURE, is_readable

    try:
        return is_readable(source.read_range(entry.key, 0, SIGNATURE))
    except ItemError as error:
        return error.code is not Code.NOT_IMAGE


def _ignored_reason(source: Store, entry: ObjectInfo) -> IgnoredReason | None:
    if not _is_image(source, entry):
        return IgnoredReason.NOT_AN_IMAGE
    with suppress(ItemError):
        if not source.is_remote and read_provenance(source, entry.key).ours:
            return IgnoredReason.CUTOUT
    return None


def _matches(key: str, patterns: Iterable[str]) -> bool:
    name = key.rpartition("/")[2]
    return any(fnmatchcase(key, pattern) or fnmatchcase(name, pattern) for pattern in patterns)
