"""Everything that can go wrong, as one tree.

    BgpipeError
    |- UsageError           the command or the configuration is wrong            exit 2
    |- NoImages             the source holds nothing to do                       exit 3
    |- Unavailable          something the job cannot start without is away       exit 4
    |  |- RedisUnavailable
    |  |- LedgerDamaged     ... or holds what is not the ledger's
    |  |- StorageUnavailable
    |  `- ModelUnavailable
    `- ItemError            one image failed; the others go on                   exit 1
       |- TransientError    trying again may help
       |  `- DeviceLost     ... in another process: this one's device is gone
       `- PermanentError    trying again cannot help: a dead letter at once

An `ItemError` carries a `Code`, which scripts may rely on.
"""

from __future__ import annotations

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
    """Anything bgpipe itself reports."""

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
    """The books of a job cannot be read; the other jobs go on."""


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

    def __reduce__(self) -> tuple[type[ItemError], tuple[Code, str]]:
        return type(self), (self.code, self.detail)


class TransientError(ItemError):
    pass


class DeviceLost(TransientError):
    pass


class PermanentError(ItemError):
    pass
