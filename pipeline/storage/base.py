"""What a job needs of the place where its images are, be it a folder or a bucket."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bgpipe.pipeline.types import Entry

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff",
    ".bmp", ".dib", ".gif", ".avif", ".heic", ".heif",
))
# fmt: on
"""Names that are taken for images when a store is listed; the content decides later."""


class Store(Protocol):
    """Objects under keys: relative paths with `/` between their parts.

    Every method raises ItemError for what concerns one object: MISSING, ACCESS and TARGET are
    permanent, STORAGE is transient. Implementations share one set of tests.
    """

    location: str
    """What `open_store` opens again."""

    def list(self) -> Iterator[Entry]:
        """Every image by its name, in the order of its key's UTF-8 bytes.

        Raises:
            StorageUnavailable: a part of the store cannot be listed.

        """
        ...

    def head(self, key: str) -> Entry | None:
        """The object as it is now, or None."""
        ...

    def read(self, key: str, limit: int) -> bytes:
        """The whole object; TOO_LARGE if it has more bytes than `limit`."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """At most `length` bytes from `start`, which counts from the end if it is negative."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Put the object there whole: a reader sees the old one or the new one, never a part.

        TARGET if the key leaves the store or cannot be an object's name.
        """
        ...


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like an image's and is not hidden."""
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
