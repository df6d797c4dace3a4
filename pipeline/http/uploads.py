"""Uploaded images and their cutouts, in a folder or a bucket that servers and workers share.

<root>/<owner>/uploads/<upload>/<name>     uploaded images; the source of any number of jobs
<root>/<owner>/results/<job>/<name>.png    the cutouts of one job
"""

import re
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import cast

from bgpipe.pipeline.broker import keys
from bgpipe.pipeline.broker.client import RedisClient
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.images.decode import validate_header
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.storage.base import Store, is_hidden, is_image_name, is_safe_key
from bgpipe.pipeline.storage.factory import StoreFactory
from bgpipe.pipeline.types import JobId

UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME_BYTES, PART_BYTES = 700, 200
"""Maximum bytes of a name and of each of its parts; leaves room for the suffixes of stores and cutouts."""


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
        self.touch(f"{owner}/uploads/{upload}")
        self.open(owner, upload).write(key, data)
        return key

    def touch(self, folder: str) -> None:
        """Record that a folder below the root is in use; it expires `serve.keep_days` later."""
        self.client.zadd(keys.FOLDERS, {folder: time.time()})

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
