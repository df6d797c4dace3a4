"""The errors of bgpipe, as one tree.

    BgpipeError
    |- UsageError           wrong command or configuration                       exit 2
    |- NoImages             the source has no images                             exit 3
    |- Unavailable          a requirement of the job is not available            exit 4
    |  |- RedisUnavailable
    |  |- StoreCorrupted    a key in Redis has content of another program
    |  |- StorageUnavailable
    |  `- ModelUnavailable
    `- ItemError            one image failed; the others go on                   exit 1
       |- TransientError    a retry may help
       |  |- DeviceLost     a retry may help in another process: this one's device is lost
       |  `- Refused        every image would fail: its job waits, and no attempt counts
       `- PermanentError    a retry cannot help: a dead letter at once

An `ItemError` carries a `Code`, which scripts may rely on.
"""

from enum import StrEnum
from typing import ClassVar


class Code(StrEnum):
    """Why an item failed."""

    EMPTY = "E_EMPTY"
    NOT_IMAGE = "E_NOT_IMAGE"
    TRUNCATED = "E_TRUNCATED"
    UNSUPPORTED = "E_UNSUPPORTED"
    TOO_LARGE = "E_TOO_LARGE"
    MISSING = "E_MISSING"
    ACCESS = "E_ACCESS"
    TARGET = "E_TARGET"
    STORAGE = "E_STORAGE"
    DEVICE = "E_DEVICE"
    TIMEOUT = "E_TIMEOUT"
    WORKER_LOST = "E_WORKER_LOST"
    INTERNAL = "E_INTERNAL"


class BgpipeError(Exception):
    exit_code: ClassVar[int] = 1


class UsageError(BgpipeError):
    exit_code = 2


class NoImages(BgpipeError):
    exit_code = 3


class Unavailable(BgpipeError):
    exit_code = 4


class RedisUnavailable(Unavailable):
    pass


class StoreCorrupted(Unavailable):
    """The keys of one job cannot be read; the other jobs go on."""


class StorageUnavailable(Unavailable):
    pass


class ModelUnavailable(Unavailable):
    pass


class ItemError(BgpipeError):
    """One image failed."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class TransientError(ItemError):
    pass


class DeviceLost(TransientError):
    pass


class Refused(TransientError):
    """A store, the model or the device fails for every image.

    `detail` names it, its answer and the remedy, and is the same for each image.
    """


class PermanentError(ItemError):
    pass
