"""How large an image may be, judged before it is decoded, and how much memory it takes."""

from dataclasses import dataclass
from typing import Self

from bgpipe.config.settings import ImageSettings
from bgpipe.pipeline.errors import Code, PermanentError

BYTES_PER_PIXEL = 28
BYTES_PER_REDUCED_PIXEL = 112
"""Bytes per pixel of the copy, with at most REDUCED_PIXELS, on which the colors of soft edges are estimated."""
REDUCED_PIXELS = 1_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image: pixels in total, pixels on one side, bytes of the file, frames."""

    max_pixels: int
    max_side: int
    max_bytes: int
    max_frames: int = 10_000

    @classmethod
    def from_settings(cls, images: ImageSettings) -> Self:
        return cls(images.max_pixels, images.max_side, images.max_bytes)

    def check_bytes(self, data: bytes) -> None:
        """Refuse a file that is empty or too large."""
        if not data:
            raise PermanentError(Code.EMPTY, "the file has no bytes")
        if len(data) > self.max_bytes:
            raise _too_large(f"{len(data)} bytes", f"{self.max_bytes} bytes")

    def check_size(self, width: int, height: int) -> None:
        """Refuse an image with too many pixels."""
        if width * height > self.max_pixels:
            raise _too_large(f"{width} x {height} pixels", f"{self.max_pixels} pixels")
        if max(width, height) > self.max_side:
            raise _too_large(f"{width} x {height} pixels", f"{self.max_side} pixels on one side")


def estimate_memory(file_bytes: int, pixels: int) -> int:
    """Return the bytes that an image takes at most, measured (infra/docs/performance.md)."""
    reduced = min(pixels, REDUCED_PIXELS)
    return file_bytes + BYTES_PER_PIXEL * pixels + BYTES_PER_REDUCED_PIXEL * reduced


def _too_large(value: str, limit: str) -> PermanentError:
    return PermanentError(Code.TOO_LARGE, f"{value}: larger than images allow, {limit}")
