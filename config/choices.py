"""Enumerations of the settings, kept apart so that command-line help need not load the settings."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Number format of the network's arithmetic."""

    AUTO = "auto"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    TF32 = "tf32"
    FLOAT32 = "float32"


class LogFormat(StrEnum):
    """Format of log events: text for people, JSON lines for a log store."""

    TEXT = "text"
    JSON = "json"


class KeyRule(StrEnum):
    """When the HTTP service requires an API key; AUTO: unless it listens on the loopback only."""

    AUTO = "auto"
    REQUIRED = "required"


class Addressing(StrEnum):
    """Position of the bucket's name in an S3 URL."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


class Encryption(StrEnum):
    """Server-side encryption of S3 objects; NONE leaves it to the bucket."""

    NONE = ""
    S3 = "AES256"
    KMS = "aws:kms"
