"""Color spaces: which images become sRGB as they are decoded, and the colors the network gets.

An image keeps its numbers and its profile if the profile is one that all viewers understand, a
matrix and three curves. CMYK, gray, and RGB that only a table explains (such as a JPEG in XYB)
become sRGB at once, since no other program would read their numbers correctly.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms, ImageColor

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

_TAG_TABLE = 128
"""Offset in a profile (ICC.1:2022, 7.3)."""
_MATRIX_TAGS = {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"}


def read_color_space(icc: bytes) -> bytes:
    """Return the four letters of the profile's color space, or b"" if it is not a profile."""
    return icc[16:20] if icc[36:40] == b"acsp" else b""


def is_matrix_profile(icc: bytes) -> bool:
    """Whether the profile is a matrix and three curves, which every viewer understands."""
    count = min(int.from_bytes(icc[_TAG_TABLE : _TAG_TABLE + 4]), 100)
    starts = (_TAG_TABLE + 4 + 12 * i for i in range(count))
    return {icc[start : start + 4] for start in starts} >= _MATRIX_TAGS


def to_viewed_srgb(rgb: Pixels, icc: bytes | None) -> Pixels:
    """Convert to what a color-managed screen shows; unchanged without a usable profile."""
    srgb = convert(Image.fromarray(rgb), icc, "sRGB") if icc else None
    return rgb if srgb is None else srgb


def from_srgb(rgb: Pixels, icc: bytes | None) -> Pixels:
    """Convert sRGB to the numbers that look the same in an image with the profile `icc`."""
    stored = convert(Image.fromarray(rgb), "sRGB", icc) if icc else None
    return rgb if stored is None else stored


def parse_color(color: str) -> Pixels:
    """Return white, black or #rrggbb as an image [1, 1, 3] in sRGB."""
    return np.array(ImageColor.getrgb(color), np.uint8).reshape(1, 1, 3)


def _open_profile(profile: bytes | str) -> ImageCms.ImageCmsProfile:
    if isinstance(profile, bytes):
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(profile))  # type: ignore[arg-type]


def convert(image: Image.Image, source: bytes | str, target: bytes | str) -> Pixels | None:
    """Convert between ICC profiles or named color spaces; None if one cannot be used."""
    try:
        converted = ImageCms.profileToProfile(
            image,
            _open_profile(source),
            _open_profile(target),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return np.array(converted)  # a writable copy
