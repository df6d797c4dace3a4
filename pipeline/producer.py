"""From a source to a job: list it, plan each cutout's place, leave out what is up to date."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import count

from bgpipe.pipeline.catalog import Catalog, Catalogs, CatalogWriter, Row
from bgpipe.pipeline.errors import NoImages
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.manifest import BLOCK
from bgpipe.pipeline.naming import Collision, Template, plan_by_template
from bgpipe.pipeline.plan import Misplaced, plan
from bgpipe.pipeline.storage import Store
from bgpipe.pipeline.survey import Planned, compare, look_at_each
from bgpipe.pipeline.types import Entry, Item, Job


class Ignored(StrEnum):
    """Why a file of the source is left alone."""

    NOT_AN_IMAGE = "not an image's name"
    NOT_INCLUDED = "not included"
    EXCLUDED = "excluded"
    IN_TARGET = "in the target"


def list_job(
    ledger: Ledger, catalogs: Catalogs | None, job: Job, source: Store, target: Store, token: int
) -> None:
    """List an open job from the beginning, and start it; `token` is of the job's lease.

    Without `catalogs` each cutout is opened, and nothing is noted of what it was made from.

    Raises:
        NoImages: nothing is left of the source once `job` has chosen. The job is forgotten.
        Misplaced: cutouts would be written among their sources. The job is forgotten.
        Collision: two cutouts would have one name. The job is forgotten.
        Superseded: another command has taken the job over.

    """
    try:
        _list(ledger, catalogs, job, source, target, token)
    except (NoImages, Misplaced, Collision):
        ledger.cancel(job.id)
        ledger.forget(job.id)
        raise


def named_entries(source: Store, named: Iterable[str]) -> Iterator[Entry]:
    """What is named and not there is an item that fails, not one that vanishes."""
    return (source.head(key) or Entry(key, 0, "") for key in named)


def survey(
    job: Job,
    entries: Iterable[Entry],
    source: Store,
    target: Store,
    catalog: Catalog | None = None,
    ignored: Counter[Ignored] | None = None,
) -> Iterator[list[Planned | Row]]:
    """What `job` would do, in batches; nothing is written, and little is held.

    With a catalog there are rows too, of cutouts that no source asks for any more. What `entries`
    have beside that is counted in `ignored`.

    Raises:
        NoImages: there is nothing in `entries`.
        UsageError: a cutout would be written among the sources.

    """
    _refuse_target(source, target)
    ignored = Counter() if ignored is None else ignored
    apart = _apart(entries, source, target, ignored)
    chosen = select(apart, job.include, job.exclude, ignored)
    planned = _refuse_sources(source, target, _placed(chosen, job))
    empty = True
    for batch in _looked_at(planned, target, job, catalog):
        empty = empty and all(isinstance(found, Row) for found in batch)
        yield batch
    if empty:
        raise NoImages(f"no images: {source.location}: check the path, --include and --exclude")


def select(
    entries: Iterable[Entry],
    include: Sequence[str],
    exclude: Sequence[str],
    ignored: Counter[Ignored],
) -> Iterator[Entry]:
    """Those matched by any pattern of `include`, which is all if it is empty, and none of `exclude`.

    A pattern matches a whole key or a file name; `*` matches `/` too. The others are counted in
    `ignored`.
    """
    for entry in entries:
        if include and not _matches(entry.key, include):
            ignored[Ignored.NOT_INCLUDED] += 1
        elif _matches(entry.key, exclude):
            ignored[Ignored.EXCLUDED] += 1
        else:
            yield entry


class Clerk:
    """Writes what a survey finds into a job's books, and into the target's catalog if one is kept."""

    def __init__(self, ledger: Ledger, job: Job, token: int, catalog: CatalogWriter | None) -> None:
        self._ledger = ledger
        self._job = job
        self._token = token
        self._catalog = catalog
        self._begun = False
        self._index = count()
        self._skipped = 0
        self._items: list[Item] = []

    def write(self, batch: Iterable[Planned | Row]) -> None:
        if self._catalog and not self._begun:
            # Not before: sources that have no image, or the target among them, leave no trace.
            self._catalog.begin()
            self._begun = True
        for found in batch:
            row = found if isinstance(found, Row) else self._enter(found)
            if self._catalog:
                self._catalog.add(row)
        self._ledger.skip(self._job.id, self._skipped, self._token)
        while len(self._items) >= BLOCK:
            self._ledger.add(self._job.id, self._items[:BLOCK], self._token)
            del self._items[:BLOCK]

    def close(self) -> None:
        self._ledger.add(self._job.id, self._items, self._token)
        if self._catalog:
            self._catalog.close()

    def _enter(self, found: Planned) -> Row:
        """Count what is up to date, note what is to do; returns the cutout's row."""
        entry, index = found.entry, -1
        if found.current:
            self._skipped += 1
        else:
            index = next(self._index)
            self._items.append(Item(index, entry.key, found.target, entry.identity))
        recipe = self._job.recipe.hash
        return Row(found.target, found.made, entry.key, entry.identity, recipe, index)


def _list(
    ledger: Ledger, catalogs: Catalogs | None, job: Job, source: Store, target: Store, token: int
) -> None:
    ledger.relist(job.id, token)
    entries = named_entries(source, ledger.named(job.id)) if job.named else source.list()
    catalog = catalogs.of(job, target) if catalogs else None
    clerk = Clerk(ledger, job, token, catalog.successor(job) if catalog else None)
    for batch in survey(job, entries, source, target, catalog):
        clerk.write(batch)
    clerk.close()
    ledger.start(job.id, token)


def _placed(entries: Iterable[Entry], job: Job) -> Iterator[tuple[Entry, str]]:
    recipe = job.recipe
    if not job.naming:
        return plan(entries, recipe.output.suffix)
    template = Template(job.naming, recipe.output.suffix, recipe.model)
    return plan_by_template(entries, template)


def _looked_at(
    planned: Iterator[tuple[Entry, str]], target: Store, job: Job, catalog: Catalog | None
) -> Iterator[list[Planned | Row]]:
    if catalog is None:
        return (list(batch) for batch in look_at_each(planned, target, job))
    return compare(planned, target, job, catalog)


def _refuse_target(source: Store, target: Store) -> None:
    if _place_below(source.location, target.location) == "":
        raise Misplaced(
            f"cutouts cannot be written among their sources: {target.location}: choose another --out"
        )


def _apart(
    entries: Iterable[Entry], source: Store, target: Store, ignored: Counter[Ignored]
) -> Iterator[Entry]:
    """The source's entries without those that lie in the target."""
    own = _place_below(source.location, target.location)
    for entry in entries:
        if own is None or not entry.key.startswith(own):
            yield entry
        else:
            ignored[Ignored.IN_TARGET] += 1


def _refuse_sources(
    source: Store, target: Store, planned: Iterator[tuple[Entry, str]]
) -> Iterator[tuple[Entry, str]]:
    """See that nothing is written into a source folder that lies in the target."""
    place = _place_below(target.location, source.location)
    for entry, key in planned:
        if place is not None and key.startswith(place):
            raise Misplaced(
                f"the cutout would be written among the sources: {entry.key}: choose another --out"
            )
        yield entry, key


def _place_below(folder: str, location: str) -> str | None:
    """What the keys of `location` start with in `folder`: "" if they are one, None if apart."""
    outer, inner = (
        place if "://" in place else os.path.realpath(place) for place in (folder, location)
    )
    if outer.rstrip("/") == inner.rstrip("/"):
        return ""
    prefix = outer.rstrip("/") + "/"
    return inner.removeprefix(prefix).rstrip("/") + "/" if inner.startswith(prefix) else None


def _matches(key: str, patterns: Iterable[str]) -> bool:
    name = key.rpartition("/")[2]
    return any(fnmatchcase(key, pattern) or fnmatchcase(name, pattern) for pattern in patterns)
