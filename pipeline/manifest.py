"""A job's items in Redis: packed blocks in one hash, an item's index being its position."""

from __future__ import annotations

import json
import os.path
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from bgpipe.pipeline import keys
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.types import Item, JobId

if TYPE_CHECKING:
    from bgpipe.pipeline.connection import Connection

BLOCK = 1000
"""Items of a block; only the last one of a manifest may be shorter."""
CACHED_BLOCKS = 8
"""Blocks kept unpacked, about 0.5 MB each: neighbours are claimed together."""

# Blocks are appended at the size the caller knows. Sent twice, the second time changes nothing.
APPEND = """
local size = tonumber(redis.call('HGET', KEYS[1], 'size'))
if not size then return -1 end
if size == tonumber(ARGV[2]) then return size end
if size ~= tonumber(ARGV[1]) then return -2 end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[1], 'size', ARGV[2])
return tonumber(ARGV[2])
"""


class Manifests:
    """The manifests of all jobs, read through a cache. Threads may share it."""

    def __init__(self, client: Connection) -> None:
        self._client = client
        self._append = client.register_script(APPEND)
        self._cache: OrderedDict[tuple[JobId, int], list[Item]] = OrderedDict()
        self._lock = Lock()

    def append(self, job: JobId, items: Sequence[Item]) -> None:
        """Add `items`, whose indices go on where the manifest ends.

        Raises:
            UsageError: the job is unknown or its manifest ends elsewhere.

        """
        start, stop = items[0].index, items[-1].index + 1
        names = keys.of_job(job)
        first, begun = divmod(start, BLOCK)
        whole = [*self._block(job, first)[:begun], *items] if begun else items
        arguments: list[int | bytes] = [start, stop]
        for number, block in enumerate(_blocks(whole), start=first):
            arguments += [number, pack(block)]
        if self._append(keys=[names.head, names.manifest], args=arguments) != stop:
            raise UsageError(f"the manifest of job {job} does not end at item {start}")

    def item(self, job: JobId, index: int) -> Item:
        """The item at `index`.

        Raises:
            UsageError: there is none.

        """
        number, position = divmod(index, BLOCK)
        with self._lock:
            block = self._cached(job, number, position + 1)
        if not 0 <= position < len(block):
            raise UsageError(f"job {job} has no item: {index}")
        return block[position]

    def items(self, job: JobId, start: int, stop: int) -> Iterator[Item]:
        """The items from `start` to before `stop`, as many as there are."""
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            for item in self._block(job, number):
                if start <= item.index < stop:
                    yield item

    def _cached(self, job: JobId, number: int, least: int) -> list[Item]:
        """The block, from the cache if at least `least` of its items are there."""
        block = self._cache.pop((job, number), [])
        if len(block) < least:
            block = self._block(job, number)
        self._cache[job, number] = block
        if len(self._cache) > CACHED_BLOCKS:
            self._cache.popitem(last=False)
        return block

    def _block(self, job: JobId, number: int) -> list[Item]:
        data = self._client.hget(keys.of_job(job).manifest, str(number))
        return unpack(data, number * BLOCK) if isinstance(data, bytes) else []


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
        [item.source for item in items],
        [len(item.source) - kept for item, kept in zip(items, shared, strict=True)],
        [item.target[kept:] for item, kept in zip(items, shared, strict=True)],
        [item.identity for item in items],
    )
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"))
    return zlib.compress(text.encode("utf-8", "surrogatepass"), level=9)


def unpack(block: bytes, first: int) -> list[Item]:
    """What was packed, its first item having the index `first`."""
    columns = json.loads(zlib.decompress(block).decode("utf-8", "surrogatepass"))
    return [
        Item(index, source, source[: len(source) - dropped] + ending, identity)
        for index, (source, dropped, ending, identity) in enumerate(
            zip(*columns, strict=True), start=first
        )
    ]


def _blocks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), BLOCK):
        yield items[start : start + BLOCK]
