"""Stored objects as responses: whole, by Range (RFC 9110, section 14), or all cutouts as one ZIP."""

import hashlib
import io
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote
from zipfile import ZipFile, ZipInfo

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from bgpipe.config.output import MEDIA_TYPES
from bgpipe.pipeline.errors import Code, ItemError, PermanentError
from bgpipe.pipeline.jobs.items import ItemState
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.types import Job, ObjectInfo

CHUNK_BYTES = 1 << 20
PAGE_ITEMS = 500
"""Items of a ZIP looked up at once."""
CUTOUT_BYTES = 1 << 32
"""Maximum size of a cutout in a ZIP, whose directory cannot record more."""
FILE_MODE = 0o100644
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def download(request: Request, store: Store, info: ObjectInfo) -> Response:
    """Return an object of `store` as a file to save, or the part of it that is requested.

    304 for a current copy, 206 for one range, 416 for one outside, else 200.
    """
    tag, size, key = etag_of(info), info.size, info.key
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": _attachment(key.rpartition("/")[2]),
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    status, part = 200, range(size)
    is_same = request.headers.get("if-range", tag) == tag
    requested = _parse_range(request.headers.get("range", ""), size) if is_same else None
    if requested == range(0):
        headers["Content-Range"] = f"bytes */{size}"
        return Response(status_code=416, headers=headers)
    if requested:
        status, part = 206, requested
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    headers["Content-Length"] = str(len(part))
    media_type = MEDIA_TYPES.get(key[key.rfind(".") :].lower(), "application/octet-stream")
    chunks = (
        store.read_range(key, at, min(CHUNK_BYTES, part.stop - at)) for at in part[::CHUNK_BYTES]
    )
    return StreamingResponse(chunks, status, headers, media_type)


def object_info(store: Store, key: str) -> ObjectInfo:
    """Return the object as it is now; raises PermanentError: MISSING."""
    info = store.head(key)
    if info is None:
        raise PermanentError(Code.MISSING, f"missing, or not made yet: {key}")
    return info


def etag_of(info: ObjectInfo, *variant: str) -> str:
    """Return a strong ETag, which changes with the content and with the `variant` made of it."""
    text = "\0".join((info.identity, *variant))
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def _attachment(name: str) -> str:
    """Return a Content-Disposition with which a browser saves the file (RFC 6266)."""
    ascii_name = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"


def document_file(*media_types: str, partial: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of an endpoint that returns a file; `partial`: by Range too."""
    file = {"schema": {"type": "string", "format": "binary"}}
    content = dict.fromkeys(media_types, file)
    responses: dict[int | str, dict[str, Any]] = {
        200: {"description": "the file", "content": content},
        304: {"description": "the caller's copy is current"},
    }
    if partial:
        responses[206] = {"description": "the requested range", "content": content}
        responses[416] = {"description": "the range is outside the file"}
    return responses


def _parse_range(header: str, size: int) -> range | None:
    """Return the bytes of exactly one range, none if it is outside the file; None: the whole file."""
    match = _RANGE.fullmatch(header.strip())
    if not match or not any(match.groups()):
        return None
    if not match[1]:
        return range(max(size - int(match[2]), 0), size)
    first, last = int(match[1]), int(match[2] or size)
    return None if match[2] and last < first else range(first, min(last + 1, size))


def download_zip(jobs: JobStore, job: Job, target: Store) -> Response:
    """Return a ZIP of the job's cutouts, stored uncompressed, without those removed since.

    It is made while it is sent, with one cutout in memory at a time, and dated as the job.
    """
    headers = {"Content-Disposition": _attachment(f"{job.id}.zip")}
    chunks = _zip_chunks(jobs, job, target)
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)


def _zip_chunks(jobs: JobStore, job: Job, target: Store) -> Iterator[bytes]:
    date = time.localtime(job.created)[:6]
    buffer = _Buffer()
    with ZipFile(buffer, "w") as archive:
        for start in range(0, jobs.items.size(job.id), PAGE_ITEMS):
            for view in jobs.items.views(job.id, start, start + PAGE_ITEMS):
                for key in view.item.targets if view.state is ItemState.DONE else ():
                    with suppress(ItemError):
                        data = target.read(key, CUTOUT_BYTES)
                        entry = ZipInfo(key, date)
                        entry.external_attr = FILE_MODE << 16
                        archive.writestr(entry, data)
                    yield buffer.getvalue()
                    buffer.truncate(buffer.seek(0))
    yield buffer.getvalue()


class _Buffer(io.BytesIO):
    """A file without positions, so that the archive counts its bytes and the buffer can be emptied."""

    def tell(self) -> int:
        raise OSError
