"""A stored object as an answer: whole, or the part that a Range asks for (RFC 9110, section 14).

All cutouts of a job as one ZIP, made while it is sent: nothing but one cutout is held.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi.responses import Response, StreamingResponse

from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.jobs.items import ItemState

if TYPE_CHECKING:
    from fastapi import Request

    from bgpipe.pipeline.jobs.store import JobStore
    from bgpipe.pipeline.storage.base import Store
    from bgpipe.pipeline.types import Job, ObjectInfo

PIECE = 1 << 20
"""Bytes read at once."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_TYPES = {
    ".avif": "image/avif",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".zip": "application/zip",
}


@dataclass(frozen=True, slots=True)
class Download:
    """`entry` of `store`, offered as a file to save."""

    store: Store
    entry: ObjectInfo

    def respond(self, request: Request) -> Response:
        """304 where the caller has it, 206 for one range, 416 for one that is not there, else 200."""
        tag, size = etag_of(self.entry), self.entry.size
        name = self.entry.key.rpartition("/")[2]
        headers = {
            "ETag": tag,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "Content-Disposition": attachment(name),
        }
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        span = _span(request.headers.get("range", ""), size)
        if span is None or request.headers.get("if-range", tag) != tag:
            return self._part(0, size, 200, headers)
        first, last = span
        if first > last:
            headers["Content-Range"] = f"bytes */{size}"
            return Response(status_code=416, headers=headers)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self._part(first, last + 1, 206, headers)

    def _part(self, start: int, stop: int, status: int, headers: dict[str, str]) -> Response:
        headers["Content-Length"] = str(stop - start)
        return StreamingResponse(
            self._pieces(start, stop), status, headers, content_type(self.entry.key)
        )

    def _pieces(self, start: int, stop: int) -> Iterator[bytes]:
        for place in range(start, stop, PIECE):
            yield self.store.read_range(self.entry.key, place, min(PIECE, stop - place))


def content_type(key: str) -> str:
    return _TYPES.get(key[key.rfind(".") :].lower(), "application/octet-stream")


def etag_of(entry: ObjectInfo, *more: str) -> str:
    """Strong: it changes with the bytes; `more` tells apart what is made of one object."""
    text = "\0".join((entry.identity, *more))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def attachment(name: str) -> str:
    """A Content-Disposition by which a browser saves and never shows (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def binary(media_type: str, *, partial: bool = False) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of an endpoint that answers with bytes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    if partial:  # whatever format the job has
        content |= dict.fromkeys(_TYPES.values(), content[media_type])
    found: dict[int | str, dict[str, Any]] = {
        200: {"description": "the file", "content": content},
        304: {"description": "the caller has it"},
    }
    if partial:
        found[206] = {"description": "the part asked for", "content": content}
        found[416] = {"description": "there is no such part"}
    return found


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte asked for; the first behind the last if there is none such.

    None where no range, or more than one, is asked for: then all of it is the answer.
    """
    match = _RANGE.fullmatch(header.strip())
    if not match or not (match[1] or match[2]) or max(map(len, match.groups())) > 18:
        return None
    if not match[1]:
        return (max(size - int(match[2]), 0), size - 1) if int(match[2]) else (1, 0)
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    if last < first and match[2]:
        return None
    return (first, min(last, size - 1)) if first < size else (1, 0)


PAGE = 500
"""Items looked up at once."""
LARGEST = 1 << 32
"""Bytes of a cutout; its folder in the archive has no place for more."""


def archive(job_store: JobStore, job: Job, target: Store) -> Iterator[bytes]:
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


def _done(job_store: JobStore, job: Job) -> Iterator[str]:
    for start in range(0, job_store.items.size(job.id), PAGE):
        for standing in job_store.items.views(job.id, start, start + PAGE):
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
