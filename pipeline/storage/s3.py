"""A bucket, or a prefix of it, as a store.

Keys are relative to the prefix. As in a folder, names that start with a dot are hidden; so are the
empty objects with a trailing slash that represent folders.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
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
from bgpipe.pipeline.errors import (
    Code,
    PermanentError,
    Refused,
    StorageUnavailable,
    TransientError,
    UsageError,
)
from bgpipe.pipeline.storage.base import S3, ignore, is_candidate_name, is_hidden, is_safe_key
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

_NETWORK = "check the network, and endpoint_url of [s3] or AWS_ENDPOINT_URL"
# Codes of responses, and classes of errors without one. Responses to HEAD have no body, so that boto3
# gives their status as the code. STORAGE is transient, every other code of bgpipe permanent.
_OF_OBJECTS = (
    (Code.MISSING, "it was deleted or renamed after the listing", "404 NoSuchKey NoSuchVersion"),
    (
        Code.ACCESS,
        "allow s3:ListBucket on the bucket, s3:GetObject on sources and s3:PutObject on targets",
        "403 AccessDenied AccessDeniedException",
    ),
    (Code.ACCESS, "restore it from the archive first", "InvalidObjectState"),
    (Code.TARGET, "shorten the name: 1024 bytes with its prefix at most", "KeyTooLongError"),
    (
        Code.STORAGE,
        "the server is busy: try again later, or with fewer lanes",
        "500 InternalError OperationAborted RequestTimeout",
    ),
    (Code.STORAGE, _NETWORK, "HTTPClientError"),
)
# Those that do not depend on the object, whatever the request.
_OF_STORES = (
    (Code.MISSING, "create the bucket or correct its name", "NoSuchBucket"),
    (Code.ACCESS, "ask the owner of the account", "AllAccessDisabled AccountProblem"),
    (
        Code.ACCESS,
        "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile of [s3]",
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidSecurity "
        "NoCredentialsError PartialCredentialsError ProfileNotFound",
    ),
    (
        Code.ACCESS,
        "log in again (aws sso login) or export fresh credentials",
        "ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired "
        "CredentialRetrievalError TokenRetrievalError SSOError LoginError",
    ),
    (
        Code.ACCESS,
        "name the bucket's region: region of [s3], or AWS_DEFAULT_REGION",
        "301 PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException "
        "NoRegionError",
    ),
    (Code.ACCESS, "set this machine's clock", "RequestTimeTooSkewed"),
    (
        Code.ACCESS,
        "check kms_key of [s3] and the right to use it",
        "KMS.DisabledException KMS.InvalidStateException "
        "KMS.KMSInvalidStateException KMS.NotFoundException",
    ),
    (Code.STORAGE, "try with fewer lanes", "429 503 ServiceUnavailable SlowDown"),
    (Code.STORAGE, "make room on the server", "QuotaExceeded XMinioStorageFull"),
    (Code.STORAGE, _NETWORK, "ConnectionError"),
)
_MEANINGS = {
    name: (code, advice)
    for code, advice, names in (*_OF_OBJECTS, *_OF_STORES)
    for name in names.split()
}
_REFUSALS = {name for *_, names in _OF_STORES for name in names.split()}
_UNKNOWN = (Code.STORAGE, "try again; if it persists, ask the server's operator")


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
    with _store_errors("no client for S3", settings.endpoint_url or settings.profile or "AWS"):
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
                if _error_name(error) in {"404", "NoSuchKey"}:
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
        with _store_errors("cannot be removed", self.location):
            for key, _ in self._objects():
                self._client.delete_object(**self._bucket, Key=self._root + key)

    def _objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        pages = self._client.get_paginator("list_objects_v2")
        with _store_errors("cannot be listed", self.location):
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
                if _error_name(error) in {"InvalidRange", "416"}:
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


@contextmanager
def item_errors(key: str, bucket: str) -> Iterator[None]:
    """Translate boto3's errors of one object into ItemError; Refused if they are those of all."""
    try:
        yield
    except (boto.ClientError, boto.BotoCoreError) as error:
        name = _error_name(error)
        code, advice = _MEANINGS.get(name, _UNKNOWN)
        if name in _REFUSALS:
            raise Refused(code, f"s3://{bucket} answers {name}: {advice}") from error
        kind = TransientError if code is Code.STORAGE else PermanentError
        raise kind(code, f"{_message(error)}: {key}: {advice}") from error


@contextmanager
def _store_errors(problem: str, location: str) -> Iterator[None]:
    """Translate boto3's errors of a whole store into StorageUnavailable.

    `problem` begins the message, as in "cannot be listed".
    """
    try:
        yield
    except (boto.ClientError, boto.BotoCoreError) as error:
        _, advice = _MEANINGS.get(_error_name(error), _UNKNOWN)
        raise StorageUnavailable(f"{problem}, {_message(error)}: {location}: {advice}") from error


def _error_name(error: boto.ClientError | boto.BotoCoreError) -> str:
    """Return the code of a response, or the first known class of an error without one."""
    if isinstance(error, boto.ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _MEANINGS), "")


def _message(error: boto.ClientError | boto.BotoCoreError) -> str:
    """Return the error on one line, without the common beginning of boto3's messages."""
    if isinstance(error, boto.ClientError):
        details = error.response.get("Error", {})
        return f"{details.get('Code', 'unknown')} ({details.get('Message', 'no message')})"
    return " ".join(str(error).split())
