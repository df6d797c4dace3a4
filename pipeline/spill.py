"""Sorting what memory is not to hold at once: sorted pieces wait in files, and are merged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from heapq import merge
from itertools import islice
from tempfile import TemporaryFile
from typing import TextIO

from bgpipe.pipeline.types import ObjectInfo

PIECE = 100_000
"""Pairs held at once: some 50 MB."""

SourceTarget = tuple[ObjectInfo, str]


def sorted_by_target(pairs: Iterable[SourceTarget], piece: int = PIECE) -> Iterator[SourceTarget]:
    """`pairs` of a source and its target's key, by the UTF-8 bytes of the latter."""
    pairs = iter(pairs)
    with ExitStack() as files:
        kept = sorted(islice(pairs, piece), key=_place)
        spilled: list[Iterator[SourceTarget]] = []
        while following := sorted(islice(pairs, piece), key=_place):
            file = files.enter_context(TemporaryFile("w+", encoding="utf-8"))
            _write(kept, file)
            spilled.append(_read(file))
            kept = following
        yield from merge(*spilled, kept, key=_place)


def _place(pair: SourceTarget) -> bytes:
    return pair[1].encode("utf-8", "surrogatepass")


def _write(pairs: Iterable[SourceTarget], file: TextIO) -> None:
    for entry, target in pairs:
        json.dump((entry.key, entry.size, entry.identity, target), file)
        file.write("\n")


def _read(file: TextIO) -> Iterator[SourceTarget]:
    file.seek(0)
    for line in file:
        key, size, identity, target = json.loads(line)
        yield ObjectInfo(key, size, identity), target
