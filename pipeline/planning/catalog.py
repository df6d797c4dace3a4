"""What is known of the cutouts below a target, so that none of them has to be opened to know it.

There is one for each target and source: a header, and parts with a row for each cutout in the order
of their keys. A bucket holds it under `.bgpipe/`. A folder's lies on the machine that lists it: cutouts
are handed on as a folder, and nobody is to find our notes among them. A row is a fact that time cannot make wrong: the object with this identity
was made of a source with that identity by that recipe. Where the object is another one by now, the
row simply says nothing about it.

A cutout that a job is yet to make has no identity when its row is written. The row names the job's
item instead, and the worker that makes it leaves a seal of its identity in the ledger.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bgpipe.pipeline.errors import Code, ItemError, StorageUnavailable
from bgpipe.pipeline.jobs.items import ItemStore, fingerprint
from bgpipe.pipeline.storage.base import Store, is_hidden, is_image_name
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, JobId, ObjectInfo

FOLDER = ".bgpipe/"
RECIPE = FOLDER + "recipe.json"
VERSION = 1
PART_ROWS = 50_000
"""Rows of a part: some 10 MB while it is written or read."""
LARGEST = 1 << 28
"""Bytes; what is larger is no part of a catalog."""
FINGERPRINTS_READ = 8192
"""Seals fetched at once."""


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """A fact about the cutout at `target`, or with `index` the promise of one."""

    target: str
    made: str
    """The cutout's identity; empty for a promise."""
    source: str
    identity: str
    """The source's, as it was listed."""
    recipe: str
    index: int = -1
    """The item of the catalog's job that is to make the cutout."""


@dataclass(frozen=True, slots=True)
class JoinedRow:
    """One target's key: the source that wants it, the object there, and the row about it."""

    key: str
    entry: ObjectInfo | None
    listed: ObjectInfo | None
    row: CatalogRow | None


@dataclass(frozen=True, slots=True)
class CatalogHeader:
    """The job whose items the promises name, and the keys of the parts."""

    job: JobId
    parts: tuple[str, ...]


_ROW = TypeAdapter(tuple[str, str, str, str, str, int])
EMPTY_CATALOG = CatalogHeader(JobId(""), ())


def header_of(source: str) -> str:
    """The key of the header: what was made from other sources has its own."""
    return f"{_stem(source)}.json"


class Catalogs:
    """Opens the catalog of a target; those of folders are in the folder `home` on this machine."""

    def __init__(self, items: ItemStore, home: Path) -> None:
        self._items = items
        self._home = home

    def of(self, job: Job, target: Store) -> Catalog | None:
        """The one of what was made at `target` from the job's source, where one is kept.

        Keys that were named are looked at one by one: they may be few, and have many others beside
        them. So are objects in a bucket whose names its listing leaves out.
        """
        unlisted = is_hidden(job.naming) or not is_image_name(f"a{job.recipe.output.suffix}")
        if job.named or (target.is_remote and unlisted):
            return None
        place = target if target.is_remote else LocalStore(self._home / _digest(target.location))
        return Catalog(place, job.source, self._items)


class Catalog:
    """The catalog at `place` of what was made from `source`; empty if there is none."""

    def __init__(self, place: Store, source: str, items: ItemStore) -> None:
        self._place = place
        self._header = _read_header(place, source)
        self._items = items
        self._block: tuple[int, list[bytes]] = (-1, [])

    @property
    def parts(self) -> tuple[str, ...]:
        """The keys of its parts."""
        return self._header.parts

    def rows(self) -> Iterator[CatalogRow]:
        """Every row that can be read, in the order of the target's keys."""
        for part in self.parts:
            # What is damaged is not missed: its cutouts are opened and speak for themselves.
            with suppress(ValueError, EOFError, OSError, zlib.error):
                for line in gzip.decompress(_read(self._place, part)).splitlines():
                    yield CatalogRow(*_ROW.validate_json(line))

    def confirms(self, row: CatalogRow, listed: ObjectInfo) -> bool:
        """Whether `row` is about the very object that is listed."""
        if row.index < 0:
            return row.made == listed.identity
        return self._seal(row.index) == fingerprint(listed.identity)

    def successor(self, job: Job) -> CatalogWriter:
        """The catalog that `job` writes."""
        return CatalogWriter(self._place, job, before=self)

    def _seal(self, index: int) -> bytes:
        """The rows come nearly in the order of their indices, so that a block serves many."""
        number, place = divmod(index, FINGERPRINTS_READ)
        if self._block[0] != number:
            start = number * FINGERPRINTS_READ
            self._block = (
                number,
                self._items.read_fingerprints(self._header.job, start, start + FINGERPRINTS_READ),
            )
        return self._block[1][place]


class CatalogWriter:
    """Writes the rows of a new catalog, which takes the place of `before` when it is closed."""

    def __init__(self, place: Store, job: Job, before: Catalog) -> None:
        self._place = place
        self._job = job
        self._before = before
        self._rows: list[bytes] = []
        self._parts: list[str] = []
        self._given_up = False

    def begin(self) -> None:
        """Write the recipe: for people, and to find out at once whether the target can be written.

        Raises:
            StorageUnavailable: it cannot, here and in the other methods. A folder, whose files cost
                nothing to open, does without a catalog that cannot be written.

        """
        self._write(RECIPE, self._job.recipe.text.encode())

    def add(self, row: CatalogRow) -> None:
        """Append a row; they come in the order of the target's keys."""
        self._rows.append(json.dumps(astuple(row), separators=(",", ":")).encode())
        if len(self._rows) >= PART_ROWS:
            self._write_part()

    def close(self) -> None:
        """Put the catalog in its place."""
        if self._rows:
            self._write_part()
        header = {
            "version": VERSION,
            "source": self._job.source,
            "job": self._job.id,
            "parts": self._parts,
        }
        # The header decides: until it is written, the catalog before holds, with its parts.
        self._write(header_of(self._job.source), json.dumps(header).encode())
        if self._given_up:
            return
        for part in set(self._before.parts) - set(self._parts):
            with suppress(ItemError):  # without the right to delete, they stay and mean nothing
                self._place.delete(part)

    def _write_part(self) -> None:
        key = f"{_stem(self._job.source)}-{self._job.id}-{len(self._parts):05}.gz"
        self._write(key, gzip.compress(b"\n".join(self._rows), compresslevel=5, mtime=0))
        self._parts.append(key)
        self._rows.clear()

    def _write(self, key: str, data: bytes) -> None:
        if self._given_up:
            return
        try:
            self._place.write(key, data)
        except ItemError as error:
            self._given_up = not self._place.is_remote
            if self._given_up:
                return
            raise StorageUnavailable(
                f"the target cannot be written: {self._place.location}: {error.detail}"
            ) from error


def merge_join(
    planned: Iterable[tuple[ObjectInfo, str]],
    listed: Iterable[ObjectInfo],
    rows: Iterable[CatalogRow],
) -> Iterator[JoinedRow]:
    """All three, each in the order of the target's keys, joined by them in constant memory."""
    streams: list[Iterable[tuple[bytes, int, Any]]] = [
        ((_order(key), 0, entry) for entry, key in planned),
        ((_order(entry.key), 1, entry) for entry in listed),
        ((_order(row.target), 2, row) for row in rows),
    ]
    together = merge(*streams, key=itemgetter(0))
    for key, group in groupby(together, key=itemgetter(0)):
        found = {kind: value for _, kind, value in group}
        yield JoinedRow(
            key.decode("utf-8", "surrogatepass"), found.get(0), found.get(1), found.get(2)
        )


def _order(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _read_header(place: Store, source: str) -> CatalogHeader:
    """The header, empty unless it is of this version and of cutouts from `source`."""
    try:
        values = json.loads(_read(place, header_of(source)))
        if (values["version"], values["source"]) == (VERSION, source):
            return CatalogHeader(JobId(values["job"]), tuple(map(_part, values["parts"])))
    except (ValueError, KeyError, TypeError):
        pass  # none there, or a damaged one
    return EMPTY_CATALOG


def _stem(source: str) -> str:
    return f"{FOLDER}catalog-{_digest(source)}"


def _digest(location: str) -> str:
    return hashlib.sha256(location.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _part(key: str) -> str:
    if not key.startswith(f"{FOLDER}catalog-"):
        raise ValueError(f"no part of a catalog: {key}")
    return key


def _read(place: Store, key: str) -> bytes:
    try:
        return place.read(key, LARGEST)
    except ItemError as error:
        if error.code is Code.MISSING or not place.is_remote:
            return b""
        raise StorageUnavailable(
            f"the target cannot be read: {place.location}: {error.detail}"
        ) from error
