"""Where uploaded images and their cutouts lie: a folder or a bucket that servers and workers share.

<root>/<owner>/uploads/<upload>/<name>     what was uploaded; the source of any number of jobs
<root>/<owner>/results/<job>/<name>.png    the cutouts of one job
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.http.problems import Problem
from bgpipe.pipeline.images.decode import validate_header
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.storage.base import is_hidden, is_image_name, is_safe_key

if TYPE_CHECKING:
    from bgpipe.pipeline.storage.base import Store
    from bgpipe.pipeline.storage.factory import StoreFactory
    from bgpipe.pipeline.types import JobId

UPLOAD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NAME_BYTES, PART_BYTES = 700, 200
"""Of a whole name and of each of its parts: stores and cutouts' suffixes need some room."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """Threads and servers may share it."""

    stores: StoreFactory
    root: str
    limits: Limits

    def new_name(self) -> str:
        """Of an upload; nobody can guess it."""
        return secrets.token_urlsafe(16)

    def source(self, owner: str, upload: str) -> str:
        """The location of an upload."""
        if not UPLOAD_NAME.fullmatch(upload):
            raise unknown_upload(upload)
        return f"{self.root}/{owner}/uploads/{upload}"

    def results(self, owner: str, job: JobId) -> str:
        """The location of a job's cutouts."""
        return f"{self.root}/{owner}/results/{job}"

    def open(self, owner: str, upload: str) -> Store:
        return self.stores.open(self.source(owner, upload))

    def count(self, owner: str, upload: str, most: int) -> int:
        """How many images an upload has; counted up to `most`."""
        return sum(1 for _ in islice(self.open(owner, upload).list(missing_ok=True), most))

    def name_of(self, location: str) -> str | None:
        """The upload that lies at `location`, if one does."""
        parts = location.removeprefix(f"{self.root}/").split("/")
        inside = location.startswith(f"{self.root}/") and len(parts) == 3 and parts[1] == "uploads"
        return parts[2] if inside else None

    def put(self, owner: str, upload: str, name: str, data: bytes) -> str:
        """Keep an image whose header promises one; returns its key, `name` made to end like one.

        Raises:
            PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE, TRUNCATED or TARGET.
            TransientError: the store failed.

        """
        key = checked_name(name)
        file_format = validate_header(data, self.limits)
        if not is_image_name(key.rpartition("/")[2]):
            key = f"{key}.{file_format.lower()}"
        self.open(owner, upload).write(key, data)
        return key


def checked_name(name: str) -> str:
    """A client's name of a file as a key; folders stay.

    Raises:
        PermanentError: TARGET, it leaves the upload, is hidden, or is too long.

    """
    key = name.replace("\\", "/")
    parts = key.split("/")
    if not is_safe_key(name) or not is_safe_key(key) or not key.isprintable() or is_hidden(key):
        raise PermanentError(Code.TARGET, f"not a name below the upload: {name[:100]!r}")
    if len(key.encode()) > NAME_BYTES or any(len(part.encode()) > PART_BYTES for part in parts):
        raise PermanentError(Code.TARGET, f"the name is too long: {name[:100]!r}")
    return key


def unknown_upload(upload: str) -> Problem:
    return Problem(404, "unknown-upload", f"unknown upload: {upload[:80]}: it may have expired")
