"""The precisions by name, apart from the settings: the command line shows them without loading those."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """The numbers a network computes in."""

    AUTO = "auto"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    TF32 = "tf32"
    FLOAT32 = "float32"
