"""What a job needs of the place where its images are, be it a folder or a bucket."""

from __future__ import annotations

import os.path
import re
from functools import cache
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bgpipe.pipeline.types import ObjectInfo

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff",
    ".bmp", ".dib", ".gif", ".avif", ".heic", ".heif",
))
"""Names that are taken for images when a store is listed; the content decides later."""
RAW_SUFFIXES = frozenset((
    ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw",
))
# fmt: on
"""Names of camera RAW, taken for images where rawpy is installed: see `reads_raw`."""


def ignore(key: str) -> None:
    """For those who do not ask what a listing passes over."""


class Store(Protocol):
    """Objects under keys: relative paths with `/` between their parts.

    Every method raises ItemError for what concerns one object: MISSING, ACCESS and TARGET are
    permanent, STORAGE is transient. Implementations share one set of tests.
    """

    location: str
    """What `Stores.open` opens again."""
    is_remote: bool
    """Whether a look at one object costs a request."""

    def list(
        self, *, missing_ok: bool = False, on_skipped: Callable[[str], None] = ignore
    ) -> Iterator[ObjectInfo]:
        """Every image by its name, and every object without a suffix, in the order of its key's bytes.

        `missing_ok`: a folder that does not exist yet has none. `passed` gets the keys of the other
        objects that are not hidden.

        Raises:
            StorageUnavailable: a part of the store cannot be listed.

        """
        ...

    def head(self, key: str) -> ObjectInfo | None:
        """The object as it is now, or None."""
        ...

    def read(self, key: str, limit: int) -> bytes:
        """The whole object; TOO_LARGE if it has more bytes than `limit`."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`, which counts from the end if it is negative."""
        ...

    def metadata(self, key: str) -> Mapping[str, str]:
        """The `notes` of `write`, where the store has a place for them; MISSING without an object."""
        ...

    def write(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """Put the object there whole: a reader sees the old one or the new one, never a part.

        `notes`, in ASCII, stay with the object where the store has a place for them. Returns the
        object's identity. TARGET if the key leaves the store or cannot be an object's name.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        ...

    def clear(self) -> None:
        """Remove every object, hidden ones too, and the folder that held them.

        Raises:
            StorageUnavailable: a part of it stays.

        """
        ...


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like an image's that is read here, and is not hidden."""
    suffix = PurePosixPath(name).suffix.lower()
    is_image = suffix in IMAGE_SUFFIXES or (suffix in RAW_SUFFIXES and reads_raw())
    return is_image and not name.startswith(".")


@cache
def reads_raw() -> bool:
    """Whether the extra `raw` is installed; it is not imported."""
    return find_spec("rawpy") is not None


def is_candidate_name(name: str) -> bool:
    """Whether a listing takes the file: an image by its name, or one whose content has to decide."""
    return is_image_name(name) or has_no_suffix(name)


def has_no_suffix(key: str) -> bool:
    """Whether a key's file name has no suffix, as in content-addressed buckets, and is not hidden."""
    name = key.rpartition("/")[2]
    return not name.startswith(".") and not PurePosixPath(name).suffix


def is_hidden(key: str) -> bool:
    """Whether a part of the key is a hidden name; `.` and `..` are no names."""
    return any(part.startswith(".") and part not in {".", ".."} for part in key.split("/"))


def is_safe_key(key: str) -> bool:
    """Whether a key stays below any root, also where a backslash separates folders."""
    parts = key.split("/")
    steps_up = ".." in re.split(r"[/\\]", key)
    broken = "\0" in key or any("\ud800" <= letter <= "\udfff" for letter in key)
    return not (steps_up or broken or "" in parts or "." in parts)


def contains(outer: str, inner: str) -> bool:
    """Whether the location `inner` is `outer` or below it.

    Folders are compared with all links followed, prefixes of a bucket as S3 does: as text.
    """
    return prefix_within(outer, inner) is not None


def prefix_within(outer: str, inner: str) -> str | None:
    """Return what the keys of `inner` start with in `outer`: "" if both are the same location.

    Returns None if `inner` is not within `outer`.
    """
    folder, location = (_resolved(each).rstrip("/") + "/" for each in (outer, inner))
    return location.removeprefix(folder) if location.startswith(folder) else None


def _resolved(location: str) -> str:
    return location if "://" in location else os.path.realpath(location)
