"""Select the sources of a job: by location, by pattern, and by content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from fnmatch import fnmatchcase

from bgpipe.pipeline.errors import Code, ItemError
from bgpipe.pipeline.planning.diff import PlannedItem
from bgpipe.pipeline.planning.ignored import IgnoredObjects, IgnoredReason
from bgpipe.pipeline.planning.ownership import read_provenance
from bgpipe.pipeline.planning.targets import OverlappingLocations, SourceTarget, literal_key
from bgpipe.pipeline.storage.base import Store, has_no_suffix, prefix_within
from bgpipe.pipeline.types import Job, ObjectInfo


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


def check_outside_source(
    job: Job, source: Store, target: Store, pairs: Iterable[SourceTarget]
) -> Iterator[SourceTarget]:
    """Yield `pairs`, and refuse a target in a source folder within the target's location.

    The one file that `job` names may be there, but must not be the source.

    Raises OverlappingLocations if a cutout would be written among the sources.
    """
    prefix = prefix_within(target.location, source.location)
    is_file = bool(literal_key(job.naming))
    for entry, key in pairs:
        if prefix is not None and (
            key == prefix + entry.key if is_file else key.startswith(prefix)
        ):
            raise OverlappingLocations(
                f"the cutout would be written among the sources: {entry.key}: choose another --out"
            )
        yield entry, key


def without_non_sources(
    batch: Sequence[PlannedItem], source: Store, pool: Executor, ignored: IgnoredObjects
) -> Iterator[PlannedItem]:
    """Yield the batch without files that are not images, and without cutouts in a folder.

    Of a bucket only keys without a suffix are read: a worker, which reads the whole object anyway,
    refuses cutouts there.
    """
    unread = [
        planned.source
        for planned in batch
        if planned.is_work and (not source.is_remote or has_no_suffix(planned.source.key))
    ]
    reasons = pool.map(lambda entry: _ignored_reason(source, entry), unread)
    reason_by_key = {entry.key: reason for entry, reason in zip(unread, reasons, strict=True)}
    for planned in batch:
        reason = reason_by_key.get(planned.source.key) if planned.is_work else None
        if reason:
            ignored.add(reason, planned.source.key)
        else:
            yield planned


def is_image(source: Store, entry: ObjectInfo) -> bool:
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
    if not is_image(source, entry):
        return IgnoredReason.NOT_AN_IMAGE
    with suppress(ItemError):
        if not source.is_remote and read_provenance(source, entry.key).ours:
            return IgnoredReason.CUTOUT
    return None


def _matches(key: str, patterns: Iterable[str]) -> bool:
    name = key.rpartition("/")[2]
    return any(fnmatchcase(key, pattern) or fnmatchcase(name, pattern) for pattern in patterns)
