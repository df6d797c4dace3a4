"""From a source to a job: list it, plan each cutout's place, leave out what is up to date."""

from __future__ import annotations

import json
import os.path
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import count

from bgpipe.pipeline import png
from bgpipe.pipeline.errors import ItemError, NoImages, UsageError
from bgpipe.pipeline.ledger import Ledger
from bgpipe.pipeline.storage import Store
from bgpipe.pipeline.types import Books, Entry, Item, Job, Recipe

BATCH = 1000
"""Cutouts looked at before the next ones are taken from the plan."""
THREADS = 8
"""Looks at once: a store answers slowly and willingly."""
HEAD = 4096
"""Bytes at a cutout's start that hold its text."""
TAIL = 12
"""Bytes at a PNG's end that say that it is whole."""


@dataclass(frozen=True, slots=True)
class Planned:
    """An image, its cutout's place, and whether the cutout there is up to date."""

    entry: Entry
    target: str
    current: bool


def open_job(
    ledger: Ledger, job: Job, entries: Iterable[Entry], source: Store, target: Store, *, force: bool
) -> Books:
    """Write what there is to do for `job` into the ledger, and start it.

    `entries` is what `source` lists, or some of it; `force` redoes what is up to date.

    Raises:
        NoImages: nothing is left of `entries` once `job` has chosen.
        UsageError: cutouts would be written among their sources, or the job exists.

    """
    batches = survey(job, entries, source, target, force=force)
    ledger.open(job)
    index = count()
    skipped = 0
    for batch in batches:
        items = [
            Item(next(index), planned.entry.key, planned.target, planned.entry.identity)
            for planned in batch
            if not planned.current
        ]
        skipped += len(batch) - len(items)
        ledger.add(job.id, items)
        ledger.skip(job.id, skipped)
    ledger.start(job.id)
    return ledger.books(job.id)


def survey(
    job: Job, entries: Iterable[Entry], source: Store, target: Store, *, force: bool
) -> Iterator[list[Planned]]:
    """What `job` would do, in batches; nothing is written. Arguments and errors as in `open_job`."""
    chosen = select(_apart(entries, source, target), job.include, job.exclude)
    planned = list(plan(chosen))
    if not planned:
        raise NoImages(f"no images: {source.location}: check the path, --include and --exclude")
    _refuse_sources(source, target, planned)
    return _batches(planned, target, job.recipe, force=force)


def select(
    entries: Iterable[Entry], include: Sequence[str], exclude: Sequence[str]
) -> Iterator[Entry]:
    """Those matched by any pattern of `include`, which is all if it is empty, and none of `exclude`.

    A pattern matches a whole key or a file name; `*` matches `/` too.
    """
    for entry in entries:
        if include and not _matches(entry.key, include):
            continue
        if not _matches(entry.key, exclude):
            yield entry


def plan(entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    """Each entry with its target's key; no two have the same one.

    `.png` takes the place of the suffix. Where that makes two sources meet, or one meet such a full
    name, it is put after the suffix.
    """
    chosen = list(entries)
    targets = {entry.key: _short(entry.key) for entry in chosen}
    clashing = list(targets)
    while clashing:
        sharing = Counter(targets.values())
        clashing = [
            key for key, target in targets.items() if sharing[target] > 1 and target != _full(key)
        ]
        targets.update((key, _full(key)) for key in clashing)
    return ((entry, targets[entry.key]) for entry in chosen)


def is_current(target: Store, key: str, recipe: Recipe, identity: str) -> bool:
    """Whether a whole cutout by `recipe`, of the source with this `identity`, lies at `key`."""
    try:
        text = png.read_text(target.read_range(key, 0, HEAD))
        return (
            text.get("bgpipe:source") == identity
            and _recipe_hash(text.get("bgpipe:recipe", "")) == recipe.hash
            and png.is_complete(target.read_range(key, -TAIL, TAIL))
        )
    except ItemError:
        # What cannot be read is done again; if it cannot be written either, that is reported.
        return False


def _batches(
    planned: Sequence[tuple[Entry, str]], target: Store, recipe: Recipe, *, force: bool
) -> Iterator[list[Planned]]:
    def look(pair: tuple[Entry, str]) -> Planned:
        entry, key = pair
        current = not force and is_current(target, key, recipe, entry.identity)
        return Planned(entry, key, current)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="look") as pool:
        for start in range(0, len(planned), BATCH):
            yield list(pool.map(look, planned[start : start + BATCH]))


def _apart(entries: Iterable[Entry], source: Store, target: Store) -> Iterator[Entry]:
    """The source's entries without those that lie in the target."""
    own = _place_below(source.location, target.location)
    if own == "":
        raise UsageError(
            f"cutouts cannot be written among their sources: {target.location}: choose another --out"
        )
    return (entry for entry in entries if own is None or not entry.key.startswith(own))


def _refuse_sources(source: Store, target: Store, planned: Iterable[tuple[Entry, str]]) -> None:
    """See that nothing is written into a source folder that lies in the target."""
    place = _place_below(target.location, source.location)
    if place is None:
        return
    for entry, key in planned:
        if key.startswith(place):
            raise UsageError(
                f"the cutout would be written among the sources: {entry.key}: choose another --out"
            )


def _place_below(folder: str, location: str) -> str | None:
    """What the keys of `location` start with in `folder`: "" if they are one, None if apart."""
    outer, inner = (
        place if "://" in place else os.path.realpath(place) for place in (folder, location)
    )
    if outer.rstrip("/") == inner.rstrip("/"):
        return ""
    prefix = outer.rstrip("/") + "/"
    return inner.removeprefix(prefix).rstrip("/") + "/" if inner.startswith(prefix) else None


def _recipe_hash(text: str) -> str | None:
    try:
        recipe = json.loads(text)
    except ValueError:
        return None
    return recipe.get("hash") if isinstance(recipe, dict) else None


def _matches(key: str, patterns: Iterable[str]) -> bool:
    name = key.rpartition("/")[2]
    return any(fnmatchcase(key, pattern) or fnmatchcase(name, pattern) for pattern in patterns)


def _short(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    return f"{folder}{slash}{stem or suffix}.png"


def _full(key: str) -> str:
    return f"{key}.png"
