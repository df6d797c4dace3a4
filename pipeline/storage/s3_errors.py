"""Errors of S3 servers and of boto3: their codes in bgpipe, and advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from bgpipe.pipeline.errors import (
    Code,
    PermanentError,
    StorageUnavailable,
    TransientError,
)


@dataclass(frozen=True, slots=True)
class ErrorMeaning:
    """STORAGE is transient, every other code permanent."""

    code: Code
    advice: str = ""


_MISSING = ErrorMeaning(Code.MISSING, "it was deleted or renamed after the listing")
_NO_BUCKET = ErrorMeaning(Code.MISSING, "create the bucket or correct its name")
_DENIED = ErrorMeaning(
    Code.ACCESS,
    "allow s3:ListBucket on the bucket, s3:GetObject on sources and s3:PutObject on targets",
)
_KEYS = ErrorMeaning(
    Code.ACCESS, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile of [s3]"
)
_EXPIRED = ErrorMeaning(Code.ACCESS, "log in again (aws sso login) or export fresh credentials")
_REGION = ErrorMeaning(
    Code.ACCESS, "name the bucket's region: region of [s3], or AWS_DEFAULT_REGION"
)
_CLOCK = ErrorMeaning(Code.ACCESS, "set this machine's clock")
_KMS = ErrorMeaning(Code.ACCESS, "check kms_key of [s3] and the right to use it")
_ARCHIVED = ErrorMeaning(Code.ACCESS, "restore it from the archive first")
_TOO_LONG = ErrorMeaning(Code.TARGET, "shorten the name: 1024 bytes with its prefix at most")
_BUSY = ErrorMeaning(Code.STORAGE, "the server is busy: try again later, or with fewer lanes")
_FULL = ErrorMeaning(Code.STORAGE, "make room on the server")
_AWAY = ErrorMeaning(
    Code.STORAGE, "check the network, and endpoint_url of [s3] or AWS_ENDPOINT_URL"
)
_UNKNOWN = ErrorMeaning(Code.STORAGE, "try again; if it persists, ask the server's operator")

# Responses to HEAD have no body, so that boto3 gives their status as the code.
_CODES = (
    (_MISSING, "404 NoSuchKey NoSuchVersion"),
    (_NO_BUCKET, "NoSuchBucket"),
    (_DENIED, "403 AccessDenied AccessDeniedException AllAccessDisabled AccountProblem"),
    (_KEYS, "InvalidAccessKeyId SignatureDoesNotMatch InvalidSecurity"),
    (_EXPIRED, "ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired"),
    (
        _REGION,
        "301 PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException",
    ),
    (_CLOCK, "RequestTimeTooSkewed"),
    (
        _KMS,
        "KMS.DisabledException KMS.InvalidStateException "
        "KMS.KMSInvalidStateException KMS.NotFoundException",
    ),
    (_ARCHIVED, "InvalidObjectState"),
    (_TOO_LONG, "KeyTooLongError"),
    (
        _BUSY,
        "429 500 503 InternalError OperationAborted RequestTimeout ServiceUnavailable SlowDown",
    ),
    (_FULL, "QuotaExceeded XMinioStorageFull"),
)
MEANINGS = {code: meaning for meaning, codes in _CODES for code in codes.split()}
"""By the code of the server's response."""

_FAILURES: tuple[tuple[type[BotoCoreError], ErrorMeaning], ...] = (
    (boto.NoCredentialsError, _KEYS),
    (boto.PartialCredentialsError, _KEYS),
    (boto.ProfileNotFound, _KEYS),
    (boto.CredentialRetrievalError, _EXPIRED),
    (boto.TokenRetrievalError, _EXPIRED),
    (boto.SSOError, _EXPIRED),
    (boto.LoginError, _EXPIRED),
    (boto.NoRegionError, _REGION),
    (boto.HTTPClientError, _AWAY),
    (boto.ConnectionError, _AWAY),
)
"""By the class of the error that boto3 raises without a response."""


@contextmanager
def item_errors(key: str) -> Iterator[None]:
    """Translate boto3's errors of one object into ItemError."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        meaning = _meaning(error)
        kind = TransientError if meaning.code is Code.STORAGE else PermanentError
        raise kind(meaning.code, f"{_message(error)}: {key}: {meaning.advice}") from error


@contextmanager
def store_errors(problem: str, location: str) -> Iterator[None]:
    """Translate boto3's errors of a whole store into StorageUnavailable.

    `problem` begins the message, as in "cannot be listed".
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        advice = _meaning(error).advice
        raise StorageUnavailable(f"{problem}, {_message(error)}: {location}: {advice}") from error


def is_known_error(error: ClientError, *codes: str) -> bool:
    return error.response.get("Error", {}).get("Code") in codes


def _meaning(error: Exception) -> ErrorMeaning:
    if isinstance(error, ClientError):
        return MEANINGS.get(error.response.get("Error", {}).get("Code", ""), _UNKNOWN)
    return next((meaning for kind, meaning in _FAILURES if isinstance(error, kind)), _UNKNOWN)


def _message(error: Exception) -> str:
    """Return the error on one line, without the common beginning of boto3's messages."""
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        return f"{details.get('Code', 'unknown')} ({details.get('Message', 'no message')})"
    return " ".join(str(error).split())
