"""Files of clients, in a folder or a bucket that servers and workers share, and responses that hold one.

<root>/<owner>/uploads/<upload>/<name>     uploaded images; the source of any number of jobs
<root>/<owner>/results/<job>/<name>.png    the cutouts of one job

A response has the whole file, a part by Range (RFC 9110, section 14), or all cutouts as one ZIP.
"""

import hashlib
import io
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast
from urllib.parse import quote
from zipfile import ZipFile, ZipInfo

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from bgpipe.config.output import MEDIA_TYPES
from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import Code, ItemError, PermanentError
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.images.decode import validate_header
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.jobs.items import ItemState
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.storage.base import Store, is_hidden, is_image_name, is_safe_key
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import Job, JobId, ObjectInfo

UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME_BYTES, PART_BYTES = 700, 200
"""Maximum bytes of a name and of each of its parts; leaves room for the suffixes of stores and cutouts."""
CHUNK_BYTES = 1 << 20
PAGE_ITEMS = 500
"""Items of a ZIP looked up at once."""
CUTOUT_BYTES = 1 << 32
"""Maximum size of a cutout in a ZIP, whose directory cannot record more."""
FILE_MODE = 0o100644
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class UploadStore:
    """The uploads of all owners. Threads and servers may share it."""

    client: RedisClient
    stores: StoreFactory
    root: str
    limits: Limits
    quota: int
    """Bytes that an owner may store."""

    def location(self, owner: str, upload: str) -> str:
        if not UPLOAD_ID.fullmatch(upload):
            raise upload_not_found(upload)
        return f"{self.root}/{owner}/uploads/{upload}"

    def results_location(self, owner: str, job: JobId) -> str:
        return f"{self.root}/{owner}/results/{job}"

    def open(self, owner: str, upload: str) -> Store:
        return self.stores.open(self.location(owner, upload))

    def count(self, owner: str, upload: str, maximum: int) -> int:
        """Return the number of images of an upload, counted up to `maximum`."""
        return sum(1 for _ in islice(self.open(owner, upload).list(missing_ok=True), maximum))

    def id_at(self, location: str) -> str | None:
        """Return the id of the upload at `location`, if that is one."""
        match = re.fullmatch(rf"{re.escape(self.root)}/[^/]+/uploads/([^/]+)", location)
        return match[1] if match else None

    def write(self, owner: str, upload: str, name: str, data: bytes) -> str:
        """Store an image after a check of its header; return its key, with an image's suffix.

        PermanentError if it is not an allowed image or its name leaves the upload; Problem 413 if the
        owner's quota is used up.
        """
        key = validate_name(name)
        file_format = validate_header(data, self.limits)
        if not is_image_name(key.rpartition("/")[2]):
            key = f"{key}.{file_format.lower()}"
        self._reserve(owner, len(data))
        self.touch(self.location(owner, upload))
        self.open(owner, upload).write(key, data)
        return key

    def touch(self, location: str) -> None:
        """Record that a folder below the root is in use; it expires `serve.keep_days` later."""
        self.client.zadd(keys.FOLDERS, {location.removeprefix(f"{self.root}/"): time.time()})

    def _reserve(self, owner: str, size: int) -> None:
        used = int(self.client.hincrby(keys.USAGE, owner, size))
        if used > self.quota:
            self.client.hincrby(keys.USAGE, owner, -size)
            detail = f"{used - size} of {self.quota} bytes in use: delete jobs, or wait for expiry"
            raise Problem(413, "quota-exceeded", detail)

    def recount(self) -> None:
        """Count what each owner stores, cutouts too, which workers write, and forget what expired.

        What is reserved meanwhile stays reserved; the next count corrects what this one saw as well.
        """
        before = cast("dict[bytes, bytes]", self.client.hgetall(keys.USAGE))
        usage, store = Counter[str](), self.stores.open(self.root)
        archives: list[str] = []
        for image in store.list(missing_ok=True, on_skipped=archives.append):
            usage[image.key.partition("/")[0]] += image.size
        for key in archives:
            if info := store.head(key):
                usage[key.partition("/")[0]] += info.size

        usage.subtract({owner.decode(): int(size) for owner, size in before.items()})
        for owner, change in usage.items():
            self.client.hincrby(keys.USAGE, owner, change)


def new_upload_id() -> str:
    """Return an id that cannot be guessed."""
    return secrets.token_urlsafe(16)


def validate_name(name: str) -> str:
    """Return a client's file name as a key; PermanentError if it is hidden, outside, or too long."""
    key = name.replace("\\", "/")
    if not is_safe_key(name) or not is_safe_key(key) or not key.isprintable() or is_hidden(key):
        raise PermanentError(Code.TARGET, f"not a name below the upload: {name[:100]!r}")
    parts = key.encode().split(b"/")
    if len(key.encode()) > NAME_BYTES or max(map(len, parts)) > PART_BYTES:
        raise PermanentError(Code.TARGET, f"file name too long: {name[:100]!r}")
    return key


def upload_not_found(upload: str) -> Problem:
    return Problem(404, "unknown-upload", f"unknown upload: {upload[:80]}: it may have expired")


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
