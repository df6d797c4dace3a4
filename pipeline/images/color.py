"""Colour spaces: what becomes sRGB as it is decoded, and what the network sees.

A picture keeps its numbers and its profile wherever the profile is one that viewers understand, a
matrix and three curves. The spaces of printers, greys, and RGB that only a table explains (such as
a JPEG in XYB) become sRGB at once, since their numbers mean nothing to anybody else.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

_TAGS = 128
"""Where a profile's tag table starts (ICC.1:2022, 7.3)."""
_NAMES = {"white": "#ffffff", "black": "#000000"}
_KEPT = {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC"}


def space_of(icc: bytes) -> bytes:
    """The four letters of the profile's colour space, or nothing if it is no profile."""
    return icc[16:20] if icc[36:40] == b"acsp" else b""


def is_matrix(icc: bytes) -> bool:
    """Whether the profile is a matrix and three curves, which every viewer understands."""
    count = min(int.from_bytes(icc[_TAGS : _TAGS + 4]), 100)
    starts = (_TAGS + 4 + 12 * i for i in range(count))
    return {icc[start : start + 4] for start in starts} >= _KEPT


def to_srgb(image: Image.Image, icc: bytes) -> Pixels | None:
    """The image through its profile; None where the profile cannot be used."""
    return _converted(image, _profile(icc), _srgb())


def lab_to_srgb(image: Image.Image) -> Pixels | None:
    """An image in CIELAB as sRGB."""
    return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), _srgb())


def to_viewed_srgb(rgb: Pixels, icc: bytes | None) -> Pixels:
    """What a colour-managed screen would show; the pixels themselves without a usable profile."""
    seen = to_srgb(Image.fromarray(rgb), icc) if icc else None
    return rgb if seen is None else seen


def from_srgb(rgb: Pixels, icc: bytes | None) -> Pixels:
    """The numbers that show the sRGB pixels `rgb` in a picture that has the profile `icc`."""
    stored = _converted(Image.fromarray(rgb), _srgb(), _profile(icc)) if icc else None
    return rgb if stored is None else stored


def parse_color(colour: str) -> Pixels:
    """White, black or #rrggbb as a picture [1, 1, 3] in sRGB."""
    value = bytes.fromhex(_NAMES.get(colour, colour).removeprefix("#"))
    return np.frombuffer(value, np.uint8).reshape(1, 1, 3)


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _profile(icc: bytes) -> ImageCms.ImageCmsProfile | None:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (ImageCms.PyCMSError, OSError):
        return None


def _converted(
    image: Image.Image,
    source: ImageCms.ImageCmsProfile | None,
    target: ImageCms.ImageCmsProfile | None,
) -> Pixels | None:
    if source is None or target is None:
        return None
    try:
        converted = ImageCms.profileToProfile(
            image,
            source,
            target,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return None if converted is None else np.array(converted)  # a copy, which may be written to
