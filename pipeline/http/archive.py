"""All cutouts of a job as one ZIP, made while it is sent: nothing but one cutout is held."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.standings import ItemState, read_items

if TYPE_CHECKING:
    from bgpipe.pipeline.ledger import Ledger
    from bgpipe.pipeline.storage import Store
    from bgpipe.pipeline.types import Job

PAGE = 500
"""Items looked up at once."""
LARGEST = 1 << 32
"""Bytes of a cutout; its folder in the archive has no place for more."""


def archive(job_store: Ledger, job: Job, target: Store) -> Iterator[bytes]:
    """The archive in pieces; a cutout that is gone is left out. Nothing is compressed again."""
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as file:
        for key in _done(job_store, job):
            try:
                data = target.read(key, LARGEST)
            except ItemError:
                continue  # removed since; the list of items names it anyway
            file.writestr(zipfile.ZipInfo(key), data)
            yield sink.taken()
    yield sink.taken()


def _done(job_store: Ledger, job: Job) -> Iterator[str]:
    for start in range(0, job_store.size(job.id), PAGE):
        for standing in read_items(job_store, job.id, start, start + PAGE):
            if standing.state is ItemState.DONE:
                yield standing.item.target


class _Sink(io.RawIOBase):
    """A file that cannot be read or moved in; what was written is taken from its end."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401  # any buffer
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
