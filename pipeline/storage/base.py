"""The interface of a store, be it a folder or a bucket; names and locations in it."""

import os.path
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Protocol

from bgpipe.pipeline.types import ObjectInfo

S3 = "s3://"
"""Prefix of the location of a bucket."""

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff",
    ".bmp", ".dib", ".gif", ".avif", ".heic", ".heif",
))
"""Suffixes of the images in a listing; the content decides later."""
RAW_SUFFIXES = frozenset((
    ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw",
))
# fmt: on
"""Suffixes of camera RAW, images where rawpy is installed: see `reads_raw`."""


def ignore(key: str) -> None:
    """Discard the keys that a listing skips."""


class Store(Protocol):
    """Objects under keys: relative paths with `/` between their parts.

    Every method raises ItemError for errors of one object: MISSING, ACCESS and TARGET are permanent,
    STORAGE is transient. Implementations share one set of tests.
    """

    location: str
    """Argument of `StoreFactory.open` for the same store."""
    is_remote: bool
    """Whether each access to an object is a request over the network."""

    def list(
        self, *, missing_ok: bool = False, on_skipped: Callable[[str], None] = ignore
    ) -> Iterator[ObjectInfo]:
        """Yield every image by its name, and every object without a suffix, sorted by the key's bytes.

        `missing_ok`: a folder that does not exist is empty. `on_skipped` gets the keys of the other
        objects that are not hidden. StorageUnavailable if a part of the store cannot be listed.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """Return the object as it is now, or None if it does not exist."""

    def read(self, key: str, limit: int) -> bytes:
        """Return the whole object; TOO_LARGE if it has more bytes than `limit`."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return at most `length` bytes from `start`, which counts from the end if negative."""

    def metadata(self, key: str) -> Mapping[str, str]:
        """Return the metadata of `write`, if the store keeps any; MISSING without an object."""

    def write(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """Write the object atomically: a reader sees the old one or the new one, never a part.

        `metadata`, in ASCII, is kept with the object if the store can. Returns the object's identity.
        TARGET if the key leaves the store or cannot be an object's name.
        """

    def delete(self, key: str) -> None:
        """Remove the object if it exists."""

    def clear(self) -> None:
        """Remove every object, hidden ones too, and the folder; StorageUnavailable if a part remains."""


def is_image_name(name: str) -> bool:
    """Whether the name has an image's suffix and is not hidden."""
    suffix = PurePosixPath(name).suffix.lower()
    is_image = suffix in IMAGE_SUFFIXES or (suffix in RAW_SUFFIXES and reads_raw())
    return is_image and not name.startswith(".")


@cache
def reads_raw() -> bool:
    """Whether the extra `raw` is installed, without importing it."""
    return find_spec("rawpy") is not None


def is_candidate_name(name: str) -> bool:
    """Whether a listing yields the file: an image by its name, or a name without a suffix."""
    return is_image_name(name) or has_no_suffix(name)


def has_no_suffix(key: str) -> bool:
    """Whether the file name has no suffix, as in content-addressed buckets, and is not hidden."""
    name = key.rpartition("/")[2]
    return not name.startswith(".") and not PurePosixPath(name).suffix


def is_hidden(key: str) -> bool:
    """Whether a part of the key is hidden; `.` and `..` are not."""
    return any(part.startswith(".") and part not in {".", ".."} for part in key.split("/"))


def is_safe_key(key: str) -> bool:
    """Whether a key stays below any root, also where a backslash separates folders."""
    parts = key.split("/")
    has_parent = ".." in re.split(r"[/\\]", key)
    is_malformed = "\0" in key or any("\ud800" <= letter <= "\udfff" for letter in key)
    return not (has_parent or is_malformed or "" in parts or "." in parts)


def contains(outer: str, inner: str) -> bool:
    """Whether the location `inner` is `outer` or below it."""
    return prefix_within(outer, inner) is not None


def prefix_within(outer: str, inner: str) -> str | None:
    """Return what the keys of `inner` start with in `outer`: "" if both are the same location.

    None if `inner` is not within `outer`. Folders are compared with all links followed, prefixes of a
    bucket as S3 does: as text.
    """
    paths = (each if "://" in each else os.path.realpath(each) for each in (outer, inner))
    folder, location = (path.rstrip("/") + "/" for path in paths)
    return location.removeprefix(folder) if location.startswith(folder) else None
