"""Bitmaps in Redis: bit i of a string is item i of a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from bgpipe.pipeline.broker.client import RedisClient

CHUNK = 8192
"""Bytes of a bitmap read at once: 65,536 items."""


def indices(
    client: RedisClient, names: Sequence[str], start: int, stop: int, *, set_bits: bool
) -> Iterator[int]:
    """Yield the indices from `start` to before `stop` whose bit is set in one of `names`, in order.

    With `set_bits` False, those whose bit is set in none of them.
    """
    for first, bits in _chunks(client, names, start, stop):
        for index in _positions(bits, first, set_bits=set_bits):
            if start <= index < stop:
                yield index


def _chunks(
    client: RedisClient, names: Sequence[str], start: int, stop: int
) -> Iterator[tuple[int, bytes]]:
    """Yield the union of the bitmaps in chunks, each with the index of its first bit."""
    end = -(-stop // 8)
    for first in range(start // 8, end, CHUNK):
        length = min(CHUNK, end - first)
        parts = (client.getrange(name, first, first + length - 1) for name in names)
        yield 8 * first, _union(cast("Iterator[bytes]", parts), length)


def _union(bitmaps: Iterable[bytes], length: int) -> bytes:
    """Return `length` bytes; bits beyond the end of a bitmap are not set."""
    total = 0
    for bits in bitmaps:
        total |= int.from_bytes(bits.ljust(length, b"\0"))
    return total.to_bytes(length)


def _positions(bits: bytes, first: int, *, set_bits: bool) -> Iterator[int]:
    skipped = 0x00 if set_bits else 0xFF
    for number, byte in enumerate(bits):
        if byte != skipped:
            for position in range(8):
                if bool(byte & 0x80 >> position) is set_bits:
                    yield first + 8 * number + position
