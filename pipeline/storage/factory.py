"""Where images come from and cutouts go to."""

from __future__ import annotations

import os.path
import re
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError, UsageError
from bgpipe.pipeline.storage.base import Store, contains
from bgpipe.pipeline.storage.local import LocalStore

if TYPE_CHECKING:
    from botocore.client import BaseClient

    from bgpipe.config.settings import S3Settings

__all__ = ["LocalStore", "Store", "StoreFactory", "find_location"]

S3 = "s3://"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CONNECTIONS = 16
"""To a bucket at once, where nobody knows better."""


class StoreFactory:
    """Opens stores by their locations; all in buckets share one client. Threads may share it."""

    def __init__(
        self, s3: S3Settings, connections: int = CONNECTIONS, places: Sequence[str] = ()
    ) -> None:
        """`places`: folders and prefixes that every store has to be in; none means anywhere."""
        self._settings = s3
        self._places = places
        self._connections = connections
        self._lock = Lock()
        self._client: BaseClient | None = None

    def open(self, location: str) -> Store:
        """The store at a folder's path or at `s3://bucket/prefix`; nothing is touched yet.

        Raises:
            UsageError: it is neither.
            PermanentError: it is outside the places allowed.
            StorageUnavailable: nothing can be asked of S3 with these settings.

        """
        if self._places and not any(contains(place, location) for place in self._places):
            raise PermanentError(
                Code.ACCESS, f"outside worker.places: {location}: add it there, or move the images"
            )
        scheme, separator, _ = location.partition("://")
        if not separator:
            return LocalStore(Path(location))
        if scheme != "s3":
            raise UsageError(f"neither a folder nor s3://bucket/prefix: {location}")
        # Imported here: boto3 takes a while that work on folders does not need.
        from bgpipe.pipeline.storage.s3 import S3Store

        return S3Store(location, self._settings, self._shared_client())

    def _shared_client(self) -> BaseClient:
        from bgpipe.pipeline.storage.s3 import make_client

        with self._lock:
            if self._client is None:
                self._client = make_client(self._settings, self._connections)
            return self._client


def find_location(text: str) -> str:
    """Return the location of a path or an address that a person wrote; paths become absolute.

    Raises:
        UsageError: its scheme is not supported, or the bucket is missing.

    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return os.path.abspath(text).rstrip("/") or "/"  # noqa: PTH100  # resolve() follows symlinks
    if scheme[0] != S3:
        raise UsageError(f"unsupported scheme: {text}: use a folder or s3://bucket/prefix")
    if not text.removeprefix(S3).partition("/")[0]:
        raise UsageError(f"no bucket named: {text}: write s3://bucket/prefix")
    return text.rstrip("/")
