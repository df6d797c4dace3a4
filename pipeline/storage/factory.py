"""Stores by their locations."""

from __future__ import annotations

import os.path
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from bgpipe.pipeline.errors import Code, PermanentError, UsageError
from bgpipe.pipeline.storage.base import S3, Store, contains
from bgpipe.pipeline.storage.local import LocalStore

if TYPE_CHECKING:
    from botocore.client import BaseClient

    from bgpipe.config.settings import S3Settings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CONNECTIONS = 16
"""Connections to S3 at once, by default."""


@dataclass(slots=True)
class StoreFactory:
    """Opens stores by their locations; all in buckets share one client. Threads may share it."""

    s3: S3Settings
    connections: int = CONNECTIONS
    allowed: Sequence[str] = ()
    """Folders and prefixes that stores must be within; none: any location."""
    _lock: Lock = field(default_factory=Lock, init=False)
    _client: BaseClient | None = field(default=None, init=False)

    def open(self, location: str) -> Store:
        """Return the store at a folder's path or at `s3://bucket/prefix`, without accessing it.

        UsageError if it is neither, PermanentError outside the allowed locations, StorageUnavailable
        if the settings of S3 are not usable.
        """
        if self.allowed and not any(contains(outer, location) for outer in self.allowed):
            raise PermanentError(
                Code.ACCESS, f"outside worker.places: {location}: add it there, or move the images"
            )
        scheme, separator, _ = location.partition("://")
        if not separator:
            return LocalStore(Path(location))
        if scheme != "s3":
            raise UsageError(f"neither a folder nor s3://bucket/prefix: {location}")
        # Imported here: importing boto3 is slow, and folders do not need it.
        from bgpipe.pipeline.storage.s3 import S3Store, make_client

        with self._lock:
            if self._client is None:
                self._client = make_client(self.s3, self.connections)
        return S3Store(location, self.s3, self._client)


def find_location(text: str) -> str:
    """Return the location of a path or URL of the user; paths become absolute.

    UsageError if its scheme is not supported, or the bucket is missing.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return os.path.abspath(text).rstrip("/") or "/"  # noqa: PTH100  # resolve() follows symlinks
    if scheme[0] != S3:
        raise UsageError(f"unsupported scheme: {text}: use a folder or s3://bucket/prefix")
    if not text.removeprefix(S3).partition("/")[0]:
        raise UsageError(f"no bucket named: {text}: write s3://bucket/prefix")
    return text.rstrip("/")
