"""Errors of S3 servers and of boto3: their codes in bgpipe, and advice."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from bgpipe.pipeline.errors import (
    Code,
    PermanentError,
    Refused,
    StorageUnavailable,
    TransientError,
)

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


@contextmanager
def item_errors(key: str, bucket: str) -> Iterator[None]:
    """Translate boto3's errors of one object into ItemError; Refused if they are those of all."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        name = _name(error)
        code, advice = _MEANINGS.get(name, _UNKNOWN)
        if name in _REFUSALS:
            raise Refused(code, f"s3://{bucket} answers {name}: {advice}") from error
        kind = TransientError if code is Code.STORAGE else PermanentError
        raise kind(code, f"{_message(error)}: {key}: {advice}") from error


@contextmanager
def store_errors(problem: str, location: str) -> Iterator[None]:
    """Translate boto3's errors of a whole store into StorageUnavailable.

    `problem` begins the message, as in "cannot be listed".
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        _, advice = _MEANINGS.get(_name(error), _UNKNOWN)
        raise StorageUnavailable(f"{problem}, {_message(error)}: {location}: {advice}") from error


def is_known_error(error: ClientError, *codes: str) -> bool:
    return error.response.get("Error", {}).get("Code") in codes


def _name(error: ClientError | BotoCoreError) -> str:
    """Return the code of a response, or the first known class of an error without one."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _MEANINGS), "")


def _message(error: ClientError | BotoCoreError) -> str:
    """Return the error on one line, without the common beginning of boto3's messages."""
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        return f"{details.get('Code', 'unknown')} ({details.get('Message', 'no message')})"
    return " ".join(str(error).split())
