"""Manifests in Redis: the items of a job as packed blocks in one hash, by position."""

from __future__ import annotations

import hashlib
import json
import lzma
import os.path
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.errors import StoreCorrupted
from bgpipe.pipeline.jobs.scripts import run_script
from bgpipe.pipeline.types import Item, JobId

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.client import RedisClient

VERSION = 1
"""Version of a block; the first ones had none. Increased when older programs would misread it."""
BLOCK = 1000
"""Items of a block; only the last one of a manifest may be shorter."""
CACHED_BLOCKS = 8
"""Unpacked blocks in the cache, about 0.5 MB each: neighbors are claimed together."""

# A fifth to a third smaller than zlib, for 10 ms a block. Names gain nothing from literal contexts.
LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 4, "lc": 0, "lp": 0, "pb": 0}]
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, EOFError, lzma.LZMAError)


class NewerBlock(Exception):
    """A later version of bgpipe wrote the block."""


class ManifestStore:
    """The manifests of all jobs, read through a cache. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._cache: OrderedDict[tuple[JobId, str, int], list[Item]] = OrderedDict()
        self._lock = Lock()

    def append(self, job: JobId, items: Sequence[Item], token: int) -> int:
        """Append `items`, whose indices continue from the manifest's end; return the script's reply."""
        start, stop = items[0].index, items[-1].index + 1
        names = keys.of_job(job)
        first, filled = divmod(start, BLOCK)
        rows = [*self._block(job, first)[:filled], *items] if filled else items
        arguments: list[int | bytes] = [token, start, stop]
        for offset in range(0, len(rows), BLOCK):
            arguments += [first + offset // BLOCK, pack(rows[offset : offset + BLOCK])]
        reply: int = run_script(self._client, "append", [names.head, names.manifest], *arguments)
        return reply

    def item(self, job: JobId, edition: str, index: int) -> Item:
        """Return the item at `index` from a cache; `edition` separates jobs that had one name.

        Raises:
            StoreCorrupted: it is missing.

        """
        number, position = divmod(index, BLOCK)
        with self._lock:
            block = self._cached(job, edition, number, position + 1)
        return _at(job, block, index)

    def pick(self, job: JobId, indices: Iterable[int]) -> list[Item]:
        """Return the items at `indices`; each block is read once if they are in order.

        Raises:
            StoreCorrupted: one is missing.

        """
        items = []
        for number, group in groupby(indices, lambda index: index // BLOCK):
            block = self._block(job, number)
            items += [_at(job, block, index) for index in group]
        return items

    def items(self, job: JobId, start: int, stop: int) -> Iterator[Item]:
        """Yield the items from `start` to before `stop`, as far as they exist."""
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            for item in self._block(job, number):
                if start <= item.index < stop:
                    yield item

    def _cached(self, job: JobId, edition: str, number: int, minimum: int) -> list[Item]:
        """Return the block, from the cache if that holds `minimum` of its items."""
        key = (job, edition, number)
        block = self._cache.pop(key, [])
        if len(block) < minimum:
            block = self._block(job, number)
        self._cache[key] = block
        if len(self._cache) > CACHED_BLOCKS:
            self._cache.popitem(last=False)
        return block

    def _block(self, job: JobId, number: int) -> list[Item]:
        data = self._client.hget(keys.of_job(job).manifest, str(number))
        try:
            return unpack(data, number * BLOCK) if isinstance(data, bytes) else []
        except NewerBlock as error:
            raise StoreCorrupted(
                f"the manifest of job {job} was written by a later version of bgpipe: block "
                f"{number}: {error}: use that version here too"
            ) from error
        except MALFORMED as error:
            raise _corrupted(job, f"block {number}: {error}") from error


def pack(items: Sequence[Item]) -> bytes:
    """Pack `items` as compressed JSON, column by column: similar values compress best together.

    A target is the number of characters dropped from the end of its source, and their replacement.
    """
    shared = [
        len(os.path.commonprefix((item.source, item.target)))  # noqa: RUF071  # of characters
        for item in items
    ]
    columns = (
        VERSION,
        [item.source for item in items],
        [len(item.source) - length for item, length in zip(items, shared, strict=True)],
        [item.target[length:] for item, length in zip(items, shared, strict=True)],
        [item.identity for item in items],
    )
    return _compress(columns)


def unpack(block: bytes, first: int) -> list[Item]:
    """Unpack `block`, whose first item has the index `first`.

    Raises:
        NewerBlock: a later version of bgpipe packed it.

    """
    columns = _columns(_decompress(block))
    return [
        Item(index, source, source[: len(source) - dropped] + ending, identity)
        for index, (source, dropped, ending, identity) in enumerate(
            zip(*columns, strict=True), start=first
        )
    ]


def _columns(values: list[Any]) -> list[list[Any]]:
    """Return the columns of a block of this version, or of the first ones."""
    if not isinstance(values[0], int):
        return values
    version, *columns = values
    if version > VERSION:
        raise NewerBlock(f"it has version {version}, this program reads up to {VERSION}")
    return columns


def pack_names(names: Sequence[str]) -> bytes:
    """Pack the keys that a submitter named."""
    return _compress(names)


def unpack_names(job: JobId, data: bytes) -> list[str]:
    """Unpack the keys that `pack_names` packed for `job`.

    Raises:
        StoreCorrupted: `data` is something else.

    """
    try:
        return [str(name) for name in _decompress(data)]
    except MALFORMED as error:
        raise _corrupted(job, f"the named keys: {error}") from error


def digest(names: Iterable[str]) -> str:
    """Return 64 hexadecimal digits, equal for equal names in the same order."""
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()


def _compress(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "surrogatepass")
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=LZMA)


def _decompress(data: bytes) -> list[Any]:
    text = lzma.decompress(data, format=lzma.FORMAT_RAW, filters=LZMA)
    values: list[Any] = json.loads(text.decode("utf-8", "surrogatepass"))
    return values


def _at(job: JobId, block: Sequence[Item], index: int) -> Item:
    position = index % BLOCK
    if position >= len(block):
        raise _corrupted(job, f"there is no item {index}")
    return block[position]


def _corrupted(job: JobId, detail: str) -> StoreCorrupted:
    return StoreCorrupted(
        f"the manifest of job {job} is damaged: {detail}: "
        f"bgpipe jobs --forget {job} removes it; then submit again"
    )
