"""How a cutout is written: one set of checked values, part of every recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Format = Literal["png", "webp", "avif", "jpeg", "mask", "zip"]
InputAlpha = Literal["multiply", "keep", "ignore"]

_SUFFIXES: dict[Format, str] = {"jpeg": ".jpg", "mask": ".png"}
FORMATS_BY_SUFFIX: dict[str, Format] = {
    ".png": "png",
    ".webp": "webp",
    ".avif": "avif",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".zip": "zip",
}
"""What the name of one cutout's file asks for."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Output:
    """Values by which a cutout becomes a file.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """

    format: Format = "png"
    """`mask` is the alpha alone as a grey PNG; `zip` holds colour.jpg and alpha.png."""
    compression: Literal["fast", "small"] = "fast"
    """`small` takes many times as long."""
    depth: Literal[8, 16] = 8
    """Bits a channel; 16 only where the source has them, and only in PNG."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """Of JPEG, AVIF and WebP; a WebP of 100 is lossless."""
    input_alpha: InputAlpha = "multiply"
    """What becomes of an alpha that the source has: it is multiplied with the matte, kept instead of
    it, or ignored."""
    backdrop: str = ""
    """Path of an image that the subject is put on."""
    backdrop_sha256: str = ""
    """What the pixels depend on."""

    @property
    def suffix(self) -> str:
        """What the names of the files end with."""
        return _SUFFIXES.get(self.format, f".{self.format}")

    @property
    def is_opaque(self) -> bool:
        """Whether the format cannot be transparent."""
        return self.format == "jpeg"
