"""Where images come from and cutouts go to."""

from __future__ import annotations

from pathlib import Path

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.storage.base import Store
from bgpipe.pipeline.storage.local import LocalStore

__all__ = ["LocalStore", "Store", "open_store"]


def open_store(location: str) -> Store:
    """The store at a folder's path; nothing is touched yet.

    Raises:
        UsageError: the location is an address that this version does not read.

    """
    scheme, separator, _ = location.partition("://")
    if separator:
        raise UsageError(f"this version reads folders only, not {scheme}://: {location}")
    return LocalStore(Path(location))
