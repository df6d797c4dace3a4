"""How a cutout is written: one set of checked values, part of every recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Format = Literal["png", "webp", "avif", "jpeg", "mask", "zip"]
InputAlpha = Literal["multiply", "keep", "ignore"]
Compression = Literal["fast", "small"]
Depth = Literal[8, 16]
Quality = Annotated[int, Field(ge=1, le=100)]


class FileFormat(NamedTuple):
    suffix: str
    media_type: str
    longest_side: int
    """Pixels."""
    is_opaque: bool = False


FILE_FORMATS: Mapping[Format, FileFormat] = {
    "png": FileFormat(".png", "image/png", 2**31 - 1),
    "webp": FileFormat(".webp", "image/webp", 16383),
    "avif": FileFormat(".avif", "image/avif", 65535),
    "jpeg": FileFormat(".jpg", "image/jpeg", 65500, is_opaque=True),
    "mask": FileFormat(".png", "image/png", 2**31 - 1),
    "zip": FileFormat(".zip", "application/zip", 65500),
}
MEDIA_TYPES: Mapping[str, str] = {each.suffix: each.media_type for each in FILE_FORMATS.values()}
"""Media types of outputs by suffix."""
FORMATS_BY_SUFFIX: Mapping[str, Format] = {
    ".jpeg": "jpeg",
    **{each.suffix: name for name, each in FILE_FORMATS.items() if name != "mask"},
}
"""The format that the name of a single output file asks for."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Output:
    """Values by which a cutout becomes a file.

    Raises:
        pydantic.ValidationError: a value is out of range.
    """

    format: Format = "png"
    """`mask` is the alpha alone as a grey PNG; `zip` holds colour.jpg and alpha.png."""
    compression: Compression = "fast"
    """`small` takes many times as long."""
    depth: Depth = 8
    """Bits a channel; 16 only where the source has them, and only in PNG."""
    quality: Quality = 90
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
        """The ending of the files' names."""
        return FILE_FORMATS[self.format].suffix

    @property
    def is_opaque(self) -> bool:
        """Whether the format cannot be transparent."""
        return FILE_FORMATS[self.format].is_opaque
