"""Stored objects as responses: whole, by Range (RFC 9110, section 14), or all cutouts as one ZIP.

The ZIP is made while it is sent, with one cutout in memory at a time.
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

from bgpipe.config.output import MEDIA_TYPES
from bgpipe.pipeline.errors import ItemError
from bgpipe.pipeline.jobs.items import ItemState

if TYPE_CHECKING:
    from fastapi import Request

    from bgpipe.pipeline.jobs.store import JobStore
    from bgpipe.pipeline.storage.base import Store
    from bgpipe.pipeline.types import Job, ObjectInfo

CHUNK_BYTES = 1 << 20
PAGE_ITEMS = 500
"""Items of a ZIP looked up at once."""
CUTOUT_BYTES = 1 << 32
"""Maximum size of a cutout in a ZIP, whose directory cannot record more."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class Download:
    """An object of `store`, offered as a file to save."""

    store: Store
    info: ObjectInfo

    def respond(self, request: Request) -> Response:
        """Return 304 for a current copy, 206 for one range, 416 for one outside, else 200."""
        tag, size = etag_of(self.info), self.info.size
        headers = {
            "ETag": tag,
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "Content-Disposition": attachment(self.info.key.rpartition("/")[2]),
        }
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        byte_range = _parse_range(request.headers.get("range", ""), size)
        if byte_range is None or request.headers.get("if-range", tag) != tag:
            return self._respond_part(0, size, 200, headers)
        first, last = byte_range
        if first > last:
            headers["Content-Range"] = f"bytes */{size}"
            return Response(status_code=416, headers=headers)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return self._respond_part(first, last + 1, 206, headers)

    def _respond_part(
        self, start: int, stop: int, status: int, headers: dict[str, str]
    ) -> Response:
        headers["Content-Length"] = str(stop - start)
        key = self.info.key
        media_type = MEDIA_TYPES.get(key[key.rfind(".") :].lower(), "application/octet-stream")
        return StreamingResponse(self._read(start, stop), status, headers, media_type)

    def _read(self, start: int, stop: int) -> Iterator[bytes]:
        for offset in range(start, stop, CHUNK_BYTES):
            yield self.store.read_range(self.info.key, offset, min(CHUNK_BYTES, stop - offset))


def etag_of(info: ObjectInfo, *variant: str) -> str:
    """Return a strong ETag, which changes with the content and with the `variant` made of it."""
    text = "\0".join((info.identity, *variant))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def attachment(name: str) -> str:
    """Return a Content-Disposition with which a browser saves the file (RFC 6266)."""
    ascii_name = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"


def document_file(media_type: str, *, partial: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of an endpoint that returns a file; `partial`: by Range too."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    if partial:  # in any format of a job
        types = [MEDIA_TYPES[suffix] for suffix in sorted(MEDIA_TYPES)]
        content |= dict.fromkeys(types, content[media_type])
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "the file", "content": content},
        304: {"description": "the caller's copy is current"},
    }
    if partial:
        responses[206] = {"description": "the requested range", "content": content}
        responses[416] = {"description": "the range is outside the file"}
    return responses


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first and last byte of a range; first > last if it is outside the file.

    Returns None, for the whole file, without exactly one range.
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


def stream_zip(jobs: JobStore, job: Job, target: Store) -> Iterator[bytes]:
    """Yield a ZIP of the job's cutouts, stored uncompressed, without those removed since."""
    buffer = _DrainBuffer()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for key in _done_targets(jobs, job):
            try:
                data = target.read(key, CUTOUT_BYTES)
            except ItemError:
                continue
            file.writestr(zipfile.ZipInfo(key), data)
            yield buffer.drain()
    yield buffer.drain()


def _done_targets(jobs: JobStore, job: Job) -> Iterator[str]:
    for start in range(0, jobs.items.size(job.id), PAGE_ITEMS):
        for view in jobs.items.views(job.id, start, start + PAGE_ITEMS):
            if view.state is ItemState.DONE:
                yield view.item.target


class _DrainBuffer(io.RawIOBase):
    """A write-only file without positions, emptied by `drain`."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:  # noqa: ANN401  # any buffer
        self._chunks.append(bytes(data))
        return len(data)

    def drain(self) -> bytes:
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)
