"""Catalogs: records of the cutouts at a target, so that a job need not open them.

Each pair of target and source has a catalog: a header, and parts with a row per cutout in the order of
the target's keys. In a bucket it is stored under `.bgpipe/`; that of a folder stays on the machine that
lists it, as cutouts are handed on as a folder. A row never becomes wrong: the object of this identity
was made from a source of that identity by that recipe. Once the object has changed, the row is ignored.

A cutout that a job has yet to make has no identity. Its row names the job's item instead, and the
worker that makes it writes a fingerprint of its identity into the item store.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from bgpipe.pipeline.errors import Code, ItemError, StorageUnavailable
from bgpipe.pipeline.jobs.items import ItemStore, fingerprint
from bgpipe.pipeline.planning.targets import PlannedTarget, key_bytes
from bgpipe.pipeline.storage.base import Store, is_hidden, is_image_name
from bgpipe.pipeline.storage.local import LocalStore
from bgpipe.pipeline.types import Job, JobId, ObjectInfo

FOLDER = ".bgpipe/"
RECIPE = FOLDER + "recipe.json"
VERSION = 1
PART_ROWS = 50_000
"""Per part: about 10 MB while it is written or read."""
MAX_BYTES = 1 << 28
"""Maximum bytes of a header or part; larger objects are rejected."""
FINGERPRINTS_READ = 8192
"""At once."""


class CatalogRow(NamedTuple):
    """How the cutout at `target` was made: from the source of this `identity`, by this recipe's hash.

    `made` is the cutout's identity; it is empty where item number `item` of the catalog's job makes it.
    """

    target: str
    made: str
    source: str
    identity: str
    recipe: str
    item: int = -1


class JoinedRow(NamedTuple):
    """A target's key, the source planned for it, the object listed there, and its catalog row."""

    key: str
    planned: PlannedTarget | None = None
    listed: ObjectInfo | None = None
    known: CatalogRow | None = None


_ROW = TypeAdapter(tuple[str, str, str, str, str, int])


def header_key(source: str) -> str:
    """Return the header's key; each source has its own."""
    return f"{_stem(source)}.json"


@dataclass(frozen=True, slots=True)
class Catalogs:
    """Opens the catalogs of targets; those of folders are in the folder `home` on this machine."""

    items: ItemStore
    home: Path

    def of(self, job: Job, target: Store) -> Catalog | None:
        """Return the catalog of the job's source at `target`, where one is kept."""
        if not keeps_catalog(job, target):
            return None
        store = target if target.is_remote else LocalStore(self.home / _digest(target.location))
        return Catalog(store, job.source, self.items)


def keeps_catalog(job: Job, target: Store) -> bool:
    """Whether a catalog of the job's source is kept at `target`.

    Targets of named keys are opened one by one: they may be few among many. So are objects in a
    bucket under names that its listing omits.
    """
    unlisted = any(
        is_hidden(each.naming) or not is_image_name(f"a{each.recipe.output.suffix}")
        for each in job.every_output
    )
    return not (job.named or (target.is_remote and unlisted))


class Catalog:
    """The catalog in `store` of the cutouts made from `source`; empty if there is none."""

    def __init__(self, store: Store, source: str, items: ItemStore) -> None:
        self._store = store
        self._items = items
        self._job, self.parts = _read_header(store, source)
        self._read_block = lru_cache(1)(self._read_fingerprints)

    def rows(self) -> Iterator[CatalogRow]:
        """Yield every readable row in the order of the target's keys."""
        for part in self.parts:
            # Without a row, a cutout is opened, and its provenance read.
            with suppress(ValueError, EOFError, OSError, zlib.error):
                for line in gzip.decompress(_read(self._store, part)).splitlines():
                    yield CatalogRow(*_ROW.validate_json(line))

    def confirms(self, row: CatalogRow, listed: ObjectInfo) -> bool:
        """Whether `row` is about the listed object itself."""
        if row.item < 0:
            return row.made == listed.identity
        number, offset = divmod(row.item, FINGERPRINTS_READ)
        return self._read_block(number)[offset] == fingerprint(listed.identity)

    def _read_fingerprints(self, block: int) -> list[bytes]:
        """Read in blocks: rows come nearly in the order of their indices."""
        start = block * FINGERPRINTS_READ
        return self._items.read_fingerprints(self._job, start, start + FINGERPRINTS_READ)

    def successor(self, job: Job) -> CatalogWriter:
        """Return the writer of the catalog that replaces this one."""
        return CatalogWriter(self._store, job, previous=self.parts)


class CatalogWriter:
    """Writes a new catalog, which replaces that of the parts `previous` when it is closed.

    Every method raises StorageUnavailable if a bucket cannot be written. A folder, whose files are
    cheap to open, does without a catalog then.
    """

    def __init__(self, store: Store, job: Job, previous: Iterable[str]) -> None:
        self._store = store
        self._job = job
        self._previous = previous
        self._rows: list[bytes] = []
        self._parts: list[str] = []
        self._is_given_up = False

    def add(self, row: CatalogRow) -> None:
        """Append a row; rows come in the order of the target's keys."""
        if not self._rows and not self._parts:
            # For readers, and to detect early that the target cannot be written. Not earlier: a
            # source without images, or one among its cutouts, leaves no trace.
            self._write(RECIPE, self._job.recipe.text.encode())
        self._rows.append(json.dumps(row, separators=(",", ":")).encode())
        if len(self._rows) >= PART_ROWS:
            self._write_part()

    def close(self) -> None:
        """Write the header, and delete the parts of the previous catalog."""
        if self._rows:
            self._write_part()
        header = {
            "version": VERSION,
            "source": self._job.source,
            "job": self._job.id,
            "parts": self._parts,
        }
        # Until the header is written, the previous catalog with its parts is valid.
        self._write(header_key(self._job.source), json.dumps(header).encode())
        if not self._is_given_up:
            for part in set(self._previous) - set(self._parts):
                with suppress(ItemError):  # without the right to delete, they stay and are ignored
                    self._store.delete(part)

    def _write_part(self) -> None:
        key = f"{_stem(self._job.source)}-{self._job.id}-{len(self._parts):05}.gz"
        self._write(key, gzip.compress(b"\n".join(self._rows), compresslevel=5, mtime=0))
        self._parts.append(key)
        self._rows.clear()

    def _write(self, key: str, data: bytes) -> None:
        if self._is_given_up:
            return
        try:
            self._store.write(key, data)
        except ItemError as error:
            self._is_given_up = not self._store.is_remote
            if self._store.is_remote:
                raise StorageUnavailable(
                    f"the target cannot be written: {self._store.location}: {error.detail}"
                ) from error


def merge_join(
    planned: Iterable[PlannedTarget], listed: Iterable[ObjectInfo], rows: Iterable[CatalogRow]
) -> Iterator[JoinedRow]:
    """Join all three by the target's key, in constant memory; each comes in the order of these keys."""
    streams: list[Iterable[tuple[bytes, str, Any]]] = [
        ((key_bytes(target.key), "planned", target) for target in planned),
        ((key_bytes(entry.key), "listed", entry) for entry in listed),
        ((key_bytes(row.target), "known", row) for row in rows),
    ]
    for key, group in groupby(merge(*streams, key=itemgetter(0)), key=itemgetter(0)):
        values = {name: value for _, name, value in group}
        yield JoinedRow(key.decode("utf-8", "surrogatepass"), **values)


def _read_header(store: Store, source: str) -> tuple[JobId, tuple[str, ...]]:
    """Return the job whose items the rows name, and the parts; none unless version and `source` match."""
    try:
        values = json.loads(_read(store, header_key(source)))
        job, parts = JobId(values["job"]), tuple(values["parts"])
        are_parts = all(str(part).startswith(f"{FOLDER}catalog-") for part in parts)
        if are_parts and (values["version"], values["source"]) == (VERSION, source):
            return job, parts
    except (ValueError, KeyError, TypeError):
        pass  # missing or damaged
    return JobId(""), ()


def _stem(source: str) -> str:
    return f"{FOLDER}catalog-{_digest(source)}"


def _digest(location: str) -> str:
    return hashlib.sha256(key_bytes(location)).hexdigest()[:16]


def _read(store: Store, key: str) -> bytes:
    try:
        return store.read(key, MAX_BYTES)
    except ItemError as error:
        if error.code is Code.MISSING or not store.is_remote:
            return b""
        raise StorageUnavailable(
            f"the target cannot be read: {store.location}: {error.detail}"
        ) from error
