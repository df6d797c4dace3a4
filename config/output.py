"""Output options of a cutout, part of every recipe, and the table of file formats."""

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass

from bgpipe.config.presets import FinishOptions

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
MEDIA_TYPES: Mapping[str, str] = {row.suffix: row.media_type for row in FILE_FORMATS.values()}
FORMATS_BY_SUFFIX: Mapping[str, Format] = {
    ".jpeg": "jpeg",
    **{row.suffix: name for name, row in FILE_FORMATS.items() if name != "mask"},
}
"""Format implied by the name of a single output file."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Output:
    """How a cutout is encoded; pydantic.ValidationError if a value is out of range."""

    format: Format = "png"
    """`mask` is the alpha as a grey PNG; `zip` contains colour.jpg and alpha.png."""
    compression: Compression = "fast"
    """`small` takes many times longer."""
    depth: Depth = 8
    """Bits per channel; 16 only for 16-bit sources, and only in PNG."""
    quality: Quality = 90
    """For JPEG, AVIF and WebP; a WebP of 100 is lossless."""
    input_alpha: InputAlpha = "multiply"
    """The source's own alpha is multiplied with the matte, kept instead of it, or ignored."""
    backdrop: str = ""
    """Path of a background image."""
    backdrop_sha256: str = ""
    """Part of the recipe's hash, instead of the path."""

    @property
    def suffix(self) -> str:
        return FILE_FORMATS[self.format].suffix

    @property
    def is_opaque(self) -> bool:
        """Whether the format has no alpha channel."""
        return FILE_FORMATS[self.format].is_opaque


class OutputOptions(BaseModel):
    """The fields of Output that a sweep and a request to the HTTP service set alike."""

    format: Format = "png"
    quality: Quality = 90
    input_alpha: InputAlpha = "multiply"


OutputName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,40}$")]


class NamedOutput(FinishOptions):
    """`[outputs.NAME]` of the settings; None and empty names mean the values of the job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str = ""
    set: dict[str, bool | float | str] = Field(default={})  # pydantic copies it
    """Further values of the preset, such as {contrast = 1.2}."""
    format: Format | None = None
    quality: Quality | None = None
    png: Compression | None = None
    depth: Depth | None = None
    suffix: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]{0,60}$")] | None = None
    """Follows the stem in the file's name; None: -NAME."""
    name: str = ""
    """Template of the file's name, instead of `suffix`."""
