"""A bucket, or a prefix of it, as a store.

Keys are relative to the prefix. As in a folder, names that start with a dot are hidden; so are the
empty objects with a trailing slash that represent folders.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import boto3
from botocore import exceptions as boto
from botocore.client import BaseClient
from botocore.config import Config
from botocore.response import StreamingBody

from bgpipe.config.output import MEDIA_TYPES
from bgpipe.config.settings import S3Settings
from bgpipe.pipeline.errors import Code, PermanentError, StorageUnavailable, UsageError
from bgpipe.pipeline.storage.base import S3, ignore, is_candidate_name, is_hidden, is_safe_key
from bgpipe.pipeline.storage.s3_errors import is_known_error, item_errors, store_errors
from bgpipe.pipeline.types import ObjectInfo

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
KEY_BYTES = 1024
"""The longest key of S3, with its prefix."""
CONNECT_TIMEOUT = 5
ATTEMPTS = 5
"""Attempts of boto3 at a request, with growing pauses."""
READS = 3
"""Attempts to read an object whose content breaks off; boto3 does not retry that."""
_INCOMPLETE = (boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError)
_CONTENT_TYPES = {**MEDIA_TYPES, ".gz": "application/gzip", ".json": "application/json"}


def make_client(settings: S3Settings, connections: int) -> BaseClient:
    """Return a client that threads may share, `connections` of them at once.

    Credentials, and the settings that are empty, come from boto3's usual sources. UsageError if the
    endpoint is not a URL, StorageUnavailable if profile, credentials or region are invalid.
    """
    config = Config(
        max_pool_connections=connections,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=settings.timeout,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        s3={"addressing_style": settings.addressing},
    )
    with store_errors("no client for S3", settings.endpoint_url or settings.profile or "AWS"):
        # A new session: threads must not share the default one while it makes clients.
        session = boto3.Session(
            profile_name=settings.profile or None, region_name=settings.region or None
        )
        try:
            return session.client("s3", config=config, endpoint_url=settings.endpoint_url or None)
        except ValueError as error:
            raise UsageError(f"not the URL of an S3 server: {error}") from error


class S3Store:
    """The objects of a bucket whose keys start with a prefix."""

    is_remote = True

    def __init__(self, location: str, settings: S3Settings, client: BaseClient) -> None:
        """`location` is `s3://bucket` or `s3://bucket/prefix`, else UsageError is raised."""
        bucket, _, prefix = location.removeprefix(S3).partition("/")
        if not BUCKET.fullmatch(bucket):
            raise UsageError(f"not a bucket's name: {bucket!r}: write s3://bucket/prefix")
        prefix = prefix.rstrip("/")
        self.location = f"{S3}{bucket}/{prefix}".rstrip("/")
        self._root = f"{prefix}/" if prefix else ""
        self._client = client
        payer = {"RequestPayer": "requester"} if settings.requester_pays else {}
        self._bucket = {"Bucket": bucket} | payer
        self._item_errors = partial(item_errors, bucket=bucket)
        # Those of a write; no ACL, so that the bucket's rules hold.
        options = {
            "ServerSideEncryption": settings.encryption,
            "SSEKMSKeyId": settings.kms_key,
            "StorageClass": settings.storage_class,
        }
        self._write_options = {name: value for name, value in options.items() if value}

    def list(
        self, *, missing_ok: bool = False, on_skipped: Callable[[str], None] = ignore
    ) -> Iterator[ObjectInfo]:
        """A prefix without objects is empty; it cannot be missing."""
        del missing_ok
        last = b""
        for key, properties in self._objects():
            last, previous = key.encode("utf-8", "surrogatepass"), last
            if last < previous:
                raise StorageUnavailable(
                    f"its keys are not sorted: {self.location}: use a general purpose bucket"
                )
            if is_hidden(key) or not key or key.endswith("/"):
                continue
            if is_candidate_name(key.rpartition("/")[2]):
                yield ObjectInfo(key, properties["Size"], _identity(properties))
            else:
                on_skipped(key)

    def head(self, key: str) -> ObjectInfo | None:
        with self._item_errors(key):
            try:
                response = self._client.head_object(**self._name(key))
            except boto.ClientError as error:
                if is_known_error(error, "404", "NoSuchKey"):
                    return None
                raise
        return ObjectInfo(key, response["ContentLength"], _identity(response))

    def read(self, key: str, limit: int) -> bytes:
        return self._get(key, limit)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        # A range cannot be empty: one byte is requested and not returned.
        size = max(length, 1)
        span = f"bytes={start}-{start + size - 1}" if start >= 0 else f"bytes={start}"
        return self._get(key, max(size, -start), span)[:length]

    def metadata(self, key: str) -> Mapping[str, str]:
        with self._item_errors(key):
            return dict(self._client.head_object(**self._name(key))["Metadata"])

    def write(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> str:
        suffix = PurePosixPath(key).suffix.lower()
        with self._item_errors(key):
            # One request: the object changes when all of it has arrived and its checksum is right.
            response = self._client.put_object(
                **self._name(key),
                Body=data,
                ChecksumAlgorithm="CRC32",
                ContentType=_CONTENT_TYPES.get(suffix, "application/octet-stream"),
                Metadata=dict(metadata or {}),
                **self._write_options,
            )
        return _identity(response)

    def delete(self, key: str) -> None:
        with self._item_errors(key):
            self._client.delete_object(**self._name(key))

    def clear(self) -> None:
        with store_errors("cannot be removed", self.location):
            for key, _ in self._objects():
                self._client.delete_object(**self._bucket, Key=self._root + key)

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        pages = self._client.get_paginator("list_objects_v2")
        with store_errors("cannot be listed", self.location):
            for page in pages.paginate(**self._bucket, Prefix=self._root):
                for properties in page.get("Contents", ()):
                    yield properties["Key"].removeprefix(self._root), properties

    def _get(self, key: str, limit: int, span: str = "") -> bytes:
        """Return the object, or a range of it: nothing if that begins after the object's end."""
        request = self._name(key) | ({"Range": span} if span else {})
        with self._item_errors(key):
            try:
                for _ in range(READS - 1):
                    with closing(self._open(key, request, limit)) as body, suppress(*_INCOMPLETE):
                        return bytes(body.read())
                with closing(self._open(key, request, limit)) as body:
                    return bytes(body.read())
            except boto.ClientError as error:
                if is_known_error(error, "InvalidRange", "416"):
                    return b""
                raise

    def _open(self, key: str, request: dict[str, str], limit: int) -> StreamingBody:
        """Return the object's content, not yet read; TOO_LARGE if it is longer than `limit`."""
        response = self._client.get_object(**request)
        size: int = response["ContentLength"]
        if size > limit:
            response["Body"].close()
            raise PermanentError(Code.TOO_LARGE, f"{size} bytes, more than {limit}: {key}")
        return response["Body"]

    def _name(self, key: str) -> dict[str, str]:
        """Return the parameters that name an object in a request."""
        if not is_safe_key(key):
            raise PermanentError(Code.TARGET, f"not a key below {self.location}: {key!r}")
        full_key = self._root + key
        if len(full_key.encode()) > KEY_BYTES:
            detail = f"more than {KEY_BYTES} bytes with its prefix: {key}: shorten it"
            raise PermanentError(Code.TARGET, detail)
        return self._bucket | {"Key": full_key}


def _identity(properties: dict[str, Any]) -> str:
    return str(properties["ETag"]).strip('"')
