"""A job's items in Redis: packed blocks in one hash, an item's index being its position."""

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
from bgpipe.pipeline.jobs.scripts import load_script
from bgpipe.pipeline.types import Item, JobId

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.client import RedisClient

VERSION = 1
"""Of a block; the first ones carried none. Raised when older programs would read it wrongly."""
BLOCK = 1000
"""Items of a block; only the last one of a manifest may be shorter."""
CACHED_BLOCKS = 8
"""Blocks kept unpacked, about 0.5 MB each: neighbours are claimed together."""

# A fifth to a third smaller than zlib, for 10 ms a block; without contexts, which names have none of.
LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 4, "lc": 0, "lp": 0, "pb": 0}]
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, EOFError, lzma.LZMAError)


class NewerBlock(Exception):
    """A block of a version that this program does not know."""


class ManifestStore:
    """The manifests of all jobs, read through a cache. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._append = load_script(client, "append")
        self._cache: OrderedDict[tuple[JobId, str, int], list[Item]] = OrderedDict()
        self._lock = Lock()

    def append(self, job: JobId, items: Sequence[Item], token: int) -> int:
        """Add `items`, whose indices go on where the manifest ends; returns the script's answer."""
        start, stop = items[0].index, items[-1].index + 1
        names = keys.of_job(job)
        first, begun = divmod(start, BLOCK)
        whole = [*self._block(job, first)[:begun], *items] if begun else items
        arguments: list[int | bytes] = [token, start, stop]
        for number, block in enumerate(_blocks(whole), start=first):
            arguments += [number, pack(block)]
        answer: int = self._append(keys=[names.head, names.manifest], args=arguments)
        return answer

    def item(self, job: JobId, edition: str, index: int) -> Item:
        """The item at `index`, from a cache; `edition` tells jobs apart that had one name.

        Raises:
            LedgerDamaged: there is none.

        """
        number, position = divmod(index, BLOCK)
        with self._lock:
            block = self._cached(job, edition, number, position + 1)
        return _at(job, block, index)

    def pick(self, job: JobId, indices: Iterable[int]) -> list[Item]:
        """The items at `indices`; each block is read once if they are in order.

        Raises:
            LedgerDamaged: there is none at one of them.

        """
        picked = []
        for number, places in groupby(indices, lambda index: index // BLOCK):
            block = self._block(job, number)
            picked += [_at(job, block, index) for index in places]
        return picked

    def items(self, job: JobId, start: int, stop: int) -> Iterator[Item]:
        """The items from `start` to before `stop`, as many as there are."""
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            for item in self._block(job, number):
                if start <= item.index < stop:
                    yield item

    def _cached(self, job: JobId, edition: str, number: int, least: int) -> list[Item]:
        """The block, from the cache if at least `least` of its items are there."""
        place = (job, edition, number)
        block = self._cache.pop(place, [])
        if len(block) < least:
            block = self._block(job, number)
        self._cache[place] = block
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
            raise _damaged(job, f"block {number}: {error}") from error


def pack(items: Sequence[Item]) -> bytes:
    """`items` as compressed JSON, column by column: equals beside equals pack best.

    A target is kept as how many characters it drops from the end of its source and what it puts
    there instead.
    """
    shared = [
        len(os.path.commonprefix((item.source, item.target)))  # noqa: RUF071  # of characters
        for item in items
    ]
    columns = (
        VERSION,
        [item.source for item in items],
        [len(item.source) - kept for item, kept in zip(items, shared, strict=True)],
        [item.target[kept:] for item, kept in zip(items, shared, strict=True)],
        [item.identity for item in items],
    )
    return _compressed(columns)


def unpack(block: bytes, first: int) -> list[Item]:
    """What was packed, its first item having the index `first`.

    Raises:
        NewerBlock: a later version of bgpipe packed it.

    """
    columns = _columns(_expanded(block))
    return [
        Item(index, source, source[: len(source) - dropped] + ending, identity)
        for index, (source, dropped, ending, identity) in enumerate(
            zip(*columns, strict=True), start=first
        )
    ]


def _columns(values: list[Any]) -> list[list[Any]]:
    """The columns of a block of this version, or of the first ones."""
    if not isinstance(values[0], int):
        return values
    version, *columns = values
    if version > VERSION:
        raise NewerBlock(f"it has version {version}, this program reads up to {VERSION}")
    return columns


def pack_names(names: Sequence[str]) -> bytes:
    """The keys that a submitter named."""
    return _compressed(names)


def unpack_names(job: JobId, data: bytes) -> list[str]:
    """What `pack_names` packed for `job`.

    Raises:
        LedgerDamaged: it is something else.

    """
    try:
        return [str(name) for name in _expanded(data)]
    except MALFORMED as error:
        raise _damaged(job, f"the named keys: {error}") from error


def digest(names: Iterable[str]) -> str:
    """64 hexadecimal digits, equal for equal names in the same order."""
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()


def _compressed(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "surrogatepass")
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=LZMA)


def _expanded(data: bytes) -> list[Any]:
    text = lzma.decompress(data, format=lzma.FORMAT_RAW, filters=LZMA)
    values: list[Any] = json.loads(text.decode("utf-8", "surrogatepass"))
    return values


def _at(job: JobId, block: Sequence[Item], index: int) -> Item:
    position = index % BLOCK
    if position >= len(block):
        raise _damaged(job, f"there is no item {index}")
    return block[position]


def _damaged(job: JobId, detail: str) -> StoreCorrupted:
    return StoreCorrupted(
        f"the manifest of job {job} is damaged: {detail}: "
        f"bgpipe jobs --forget {job} removes it; then submit again"
    )


def _blocks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), BLOCK):
        yield items[start : start + BLOCK]
