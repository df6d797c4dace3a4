"""A bucket, or what lies under a prefix of it, as a store.

Keys are relative to the prefix. What a folder would hide is hidden here too: names that start with
a dot, and the empty objects with a trailing slash that stand for folders.
"""

from __future__ import annotations

import re
from contextlib import closing, suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)

from bgpipe.config.output import MEDIA_TYPES
from bgpipe.pipeline.errors import Code, PermanentError, StorageUnavailable, UsageError
from bgpipe.pipeline.storage.base import ignore, is_candidate_name, is_hidden, is_safe_key
from bgpipe.pipeline.storage.s3_errors import is_known_error, item_errors, store_errors
from bgpipe.pipeline.types import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from botocore.client import BaseClient
    from botocore.response import StreamingBody

    from bgpipe.config.settings import S3Settings

SCHEME = "s3://"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
KEY_BYTES = 1024
"""The longest key that S3 takes, prefix and all."""
CONNECT_TIMEOUT = 5
ATTEMPTS = 5
"""Times that boto3 makes a request; it waits longer before each."""
READS = 3
"""Times that an object is asked for whose content breaks off, which boto3 leaves to us."""
_BROKEN_OFF = (HTTPClientError, IncompleteReadError, FlexibleChecksumError)
_CONTENT_TYPES = {**MEDIA_TYPES, ".gz": "application/gzip", ".json": "application/json"}


def make_client(settings: S3Settings, connections: int) -> BaseClient:
    """A client that any number of threads may share, `connections` of them at once.

    Credentials, and what `settings` leave empty, come from boto3's usual places.

    Raises:
        StorageUnavailable: the profile, its credentials or its region make no sense.
        UsageError: the endpoint is no address.

    """
    config = Config(
        max_pool_connections=connections,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=settings.timeout,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        s3={"addressing_style": settings.addressing.value},
    )
    with store_errors("no client for S3", settings.endpoint_url or settings.profile or "AWS"):
        # A session of its own: threads may not share the default one while it makes clients.
        session = boto3.Session(
            profile_name=settings.profile or None, region_name=settings.region or None
        )
        try:
            return session.client("s3", config=config, endpoint_url=settings.endpoint_url or None)
        except ValueError as error:
            raise UsageError(f"not an S3 server's address: {error}") from error


class S3Store:
    """The objects of a bucket whose keys start with a prefix."""

    is_remote = True

    def __init__(self, location: str, settings: S3Settings, client: BaseClient) -> None:
        """`location` is `s3://bucket` or `s3://bucket/prefix`.

        Raises:
            UsageError: it is not.

        """
        bucket, _, prefix = location.removeprefix(SCHEME).partition("/")
        if not BUCKET.fullmatch(bucket):
            raise UsageError(f"not a bucket's name: {bucket!r}: write s3://bucket/prefix")
        prefix = prefix.rstrip("/")
        self.location = f"{SCHEME}{bucket}/{prefix}".rstrip("/")
        self._root = f"{prefix}/" if prefix else ""
        self._client = client
        self._bucket = {"Bucket": bucket} | _payer(settings)
        self._as_written = _as_written(settings)

    def list(
        self, *, missing_ok: bool = False, on_skipped: Callable[[str], None] = ignore
    ) -> Iterator[ObjectInfo]:
        """A prefix is always there, and may have nothing."""
        del missing_ok
        last = b""
        for key, found in self._objects():
            place = key.encode("utf-8", "surrogatepass")
            if place < last:
                raise StorageUnavailable(
                    f"its keys come in no order: {self.location}: use a general purpose bucket"
                )
            last = place
            if is_hidden(key) or not key or key.endswith("/"):
                continue
            if is_candidate_name(key.rpartition("/")[2]):
                yield ObjectInfo(key, found["Size"], _identity(found))
            else:
                on_skipped(key)

    def head(self, key: str) -> ObjectInfo | None:
        place = self._place(key)
        with item_errors(key):
            try:
                found = self._client.head_object(**place)
            except ClientError as error:
                if is_known_error(error, "404", "NoSuchKey"):
                    return None
                raise
        return ObjectInfo(key, found["ContentLength"], _identity(found))

    def read(self, key: str, limit: int) -> bytes:
        return self._get(key, limit)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        # A range cannot be empty; one byte is asked for and not returned.
        least = max(length, 1)
        span = f"bytes={start}-{start + least - 1}" if start >= 0 else f"bytes={start}"
        try:
            return self._get(key, max(least, -start), span)[:length]
        except _BeyondTheEnd:
            return b""

    def metadata(self, key: str) -> Mapping[str, str]:
        place = self._place(key)
        with item_errors(key):
            found: dict[str, str] = self._client.head_object(**place)["Metadata"]
            return found

    def write(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        place = self._place(key)
        with item_errors(key):
            # One request: the object changes when all of it has arrived and its checksum is right.
            written = self._client.put_object(
                **place,
                Body=data,
                ChecksumAlgorithm="CRC32",
                ContentType=_content_type(key),
                Metadata=dict(metadata or {}),
                **self._as_written,
            )
        return _identity(written)

    def delete(self, key: str) -> None:
        place = self._place(key)
        with item_errors(key):
            self._client.delete_object(**place)

    def clear(self) -> None:
        with store_errors("cannot be removed", self.location):
            for key, _ in self._objects():
                self._client.delete_object(**self._bucket, Key=self._root + key)

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        pages = self._client.get_paginator("list_objects_v2")
        with store_errors("cannot be listed", self.location):
            for page in pages.paginate(**self._bucket, Prefix=self._root):
                for found in page.get("Contents", ()):
                    yield found["Key"].removeprefix(self._root), found

    def _get(self, key: str, limit: int, span: str | None = None) -> bytes:
        place = self._place(key) | ({"Range": span} if span else {})
        with item_errors(key):
            for _ in range(READS - 1):
                with closing(self._opened(key, place, limit)) as body, suppress(*_BROKEN_OFF):
                    return bytes(body.read())
            with closing(self._opened(key, place, limit)) as body:
                return bytes(body.read())

    def _opened(self, key: str, place: dict[str, str], limit: int) -> StreamingBody:
        """The object's content, not read yet, if it is no longer than `limit`."""
        try:
            found = self._client.get_object(**place)
        except ClientError as error:
            if is_known_error(error, "InvalidRange", "416"):
                raise _BeyondTheEnd from error
            raise
        size: int = found["ContentLength"]
        if size > limit:
            found["Body"].close()
            raise PermanentError(Code.TOO_LARGE, f"{size} bytes, more than {limit}: {key}")
        return found["Body"]

    def _place(self, key: str) -> dict[str, str]:
        """What names an object in a request."""
        if not is_safe_key(key):
            raise PermanentError(Code.TARGET, f"not a key below {self.location}: {key!r}")
        whole = self._root + key
        if len(whole.encode()) > KEY_BYTES:
            raise PermanentError(
                Code.TARGET, f"more than {KEY_BYTES} bytes with its prefix: {key}: shorten it"
            )
        return self._bucket | {"Key": whole}


class _BeyondTheEnd(Exception):
    """A range begins where the object has ended."""


def _identity(found: dict[str, Any]) -> str:
    tag: str = found["ETag"]
    return tag.strip('"')


def _content_type(key: str) -> str:
    return _CONTENT_TYPES.get(PurePosixPath(key).suffix.lower(), "application/octet-stream")


def _payer(settings: S3Settings) -> dict[str, str]:
    return {"RequestPayer": "requester"} if settings.requester_pays else {}


def _as_written(settings: S3Settings) -> dict[str, str]:
    """What a request to write says besides the object; no ACL, so that the bucket's rules hold."""
    options = {
        "ServerSideEncryption": settings.encryption.value,
        "SSEKMSKeyId": settings.kms_key,
        "StorageClass": settings.storage_class,
    }
    return {name: value for name, value in options.items() if value}
