"""Manifests in Redis: the items of a job as packed blocks in one hash, by position."""

import hashlib
import json
import lzma
import os.path
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby
from typing import Any

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import StoreCorrupted
from bgpipe.pipeline.jobs.scripts import change_job
from bgpipe.pipeline.types import Item, JobId

VERSION = 1
"""Version of a block; the first ones had none. Increased when older programs would misread it."""
BLOCK = 1000
"""Items of a block; only the last one of a manifest may be shorter."""
CACHED_BLOCKS = 8
"""Unpacked blocks in the cache, about 0.5 MB each: neighbors are claimed together."""

# A fifth to a third smaller than zlib, for 10 ms a block. Names gain nothing from literal contexts.
LZMA = [{"id": lzma.FILTER_LZMA2, "preset": 4, "lc": 0, "lp": 0, "pb": 0}]
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, EOFError, lzma.LZMAError)


class ManifestStore:
    """The manifests of all jobs; every method raises StoreCorrupted. Threads may share it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._cached_block = lru_cache(CACHED_BLOCKS)(
            lambda job, _edition, number: self._block(job, number)
        )

    def append(self, job: JobId, items: Sequence[Item], token: int) -> None:
        """Append `items`; UsageError unless their indices continue from the manifest's end."""
        start, stop = items[0].index, items[-1].index + 1
        names = keys.of_job(job)
        first, filled = divmod(start, BLOCK)
        rows = [*self._block(job, first)[:filled], *items] if filled else items
        blocks: list[int | bytes] = []
        for offset in range(0, len(rows), BLOCK):
            blocks += [first + offset // BLOCK, pack(rows[offset : offset + BLOCK])]
        change_job(
            self._client,
            "append",
            job,
            [names.head, names.manifest],
            *(token, start, stop, *blocks),
            no_item=f"the manifest of job {job} does not end at item {start}",
        )

    def items(self, job: JobId, start: int, stop: int) -> Iterator[Item]:
        """Yield the items from `start` to before `stop`, as far as they exist."""
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            for item in self._block(job, number):
                if start <= item.index < stop:
                    yield item

    def pick(self, job: JobId, indices: Iterable[int]) -> Iterator[Item]:
        """Yield the items at `indices`, which must exist; each block is read once if they are in order."""
        for number, group in groupby(indices, lambda index: index // BLOCK):
            block = self._block(job, number)
            yield from (_at(job, block, index) for index in group)

    def cached_item(self, job: JobId, edition: bytes, index: int) -> Item:
        """Return an item of a job that has been listed; `edition` separates jobs that had one name."""
        return _at(job, self._cached_block(job, edition, index // BLOCK), index)

    def _block(self, job: JobId, number: int) -> list[Item]:
        data = self._client.hget(keys.of_job(job).manifest, str(number))
        if not isinstance(data, bytes):
            return []
        try:
            values = _decompress(data)
            version, *columns = values if isinstance(values[0], int) else (0, *values)
            if version > VERSION:
                raise StoreCorrupted(
                    f"the manifest of job {job} was written by a later version of bgpipe: block "
                    f"{number}: it has version {version}, this program reads up to {VERSION}: "
                    "use that version here too"
                )
            rows = enumerate(zip(*columns, strict=True), start=number * BLOCK)
            return [_unpack(index, row) for index, row in rows]
        except MALFORMED as error:
            raise _corrupted(job, f"block {number}: {error}") from error


def pack(items: Sequence[Item]) -> bytes:
    """Pack `items` as compressed JSON, column by column: similar values compress best together.

    A target is the number of characters dropped from the end of its source, and their replacement. If the
    job has several outputs, the bits of `stale` and the further targets follow.
    """
    rows = []
    for item in items:
        target, *others = (_shorten(item.source, target) for target in item.targets)
        more = (item.stale, *chain(*others)) if others else ()
        rows.append((item.source, *target, item.identity, *more))
    return _compress((VERSION, *zip(*rows, strict=True)))


def _shorten(source: str, target: str) -> tuple[int, str]:
    shared = len(os.path.commonprefix((source, target)))  # noqa: RUF071  # characters
    return len(source) - shared, target[shared:]


def _unpack(index: int, row: Sequence[Any]) -> Item:
    source, dropped, ending, identity, *more = row
    stale, *others = more or (1,)
    pairs = zip((dropped, *others[::2]), (ending, *others[1::2]), strict=True)
    target, *further = (source[: len(source) - dropped] + ending for dropped, ending in pairs)
    return Item(index, source, target, identity, tuple(further), stale)


def pack_names(names: Sequence[str]) -> bytes:
    """Pack the keys that a submitter named."""
    return _compress(names)


def unpack_names(job: JobId, data: bytes) -> list[str]:
    """Unpack the keys that `pack_names` packed; StoreCorrupted if `data` is something else."""
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
