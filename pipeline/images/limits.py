"""How large an image may be, judged before anything of it is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from bgpipe.pipeline.errors import Code, PermanentError


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image taken: pixels in all, pixels on one side, bytes of the file, frames."""

    max_pixels: int
    max_side: int
    max_bytes: int
    max_frames: int = 10_000


def check_bytes(data: bytes, limits: Limits) -> None:
    """Refuse a file that has no bytes, or too many."""
    if not data:
        raise PermanentError(Code.EMPTY, "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise _too_large(f"{len(data)} bytes", f"{limits.max_bytes} bytes")


def check_size(size: tuple[int, int], limits: Limits) -> None:
    """Refuse a picture of too many pixels; `size` is (width, height)."""
    width, height = size
    if width * height > limits.max_pixels:
        raise _too_large(f"{width} x {height} pixels", f"{limits.max_pixels} pixels")
    if max(size) > limits.max_side:
        raise _too_large(f"{width} x {height} pixels", f"{limits.max_side} pixels on one side")


def too_many_frames(limits: Limits) -> PermanentError:
    return _too_large("the frames", f"{limits.max_frames} frames")


def _too_large(found: str, limit: str) -> PermanentError:
    return PermanentError(Code.TOO_LARGE, f"{found}: larger than images allow, {limit}")
