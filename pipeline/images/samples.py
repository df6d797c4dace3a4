"""From an opened file to samples of 8 bits and, on request, of 16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import ExifTags, Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import color, png
from bgpipe.pipeline.images.formats import truncation_error
from bgpipe.pipeline.images.header import DAMAGE
from bgpipe.pipeline.types import DecodedImage

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, Pixels16

_PNG_DEPTH = 24
"""Offset in a PNG of the number of bits of a sample."""
_WHITES = (1, 255, 65535)
"""Float and 32-bit samples do not define white: it is the least of these that none exceeds."""


def read_samples(image: Image.Image, data: bytes, *, keep_16_bits: bool) -> DecodedImage:
    """Decode the first frame as it is stored, not yet upright; `keep_16_bits` adds 16-bit samples.

    Raises PermanentError: TRUNCATED or UNSUPPORTED.
    """
    icc = image.info.get("icc_profile") or b""
    rgb, alpha = _decode(image, data)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    profile: bytes | None = None
    other: Image.Image | None = None
    match color.read_color_space(icc):
        case b"CMYK" if image.mode == "CMYK":
            other = image
        case b"GRAY" if (rgb == rgb[..., :1]).all():
            other = Image.fromarray(np.ascontiguousarray(rgb[..., 0]))
        case b"RGB " if image.mode != "CMYK" and color.is_matrix_profile(icc):
            profile = icc
        case b"RGB " if image.mode != "CMYK":
            other = Image.fromarray(rgb)
    # Converted if the profile is one whose numbers cannot be kept.
    srgb = color.convert(other, icc, "sRGB") if other else None
    if srgb is not None:
        return DecodedImage(srgb, alpha)
    rgb16 = _read_rgb16(image, data) if keep_16_bits else None
    return DecodedImage(rgb, alpha, profile, rgb16=rgb16)


def _decode(image: Image.Image, data: bytes) -> tuple[Pixels, Pixels | None]:
    if image.format in ("JPEG", "MPO") and image.mode == "RGB":
        return _decode_jpeg(image, data), None
    _load(image)
    if image.mode.startswith("I;16"):
        return _decode_gray16(image)
    if image.mode in ("I", "F"):
        return _gray_to_rgb(_scale_to_8_bits(image)), None
    if image.mode == "LAB":
        if (rgb := color.convert(image, "LAB", "sRGB")) is None:
            raise PermanentError(Code.UNSUPPORTED, "unsupported kind of LAB: convert to RGB")
        return rgb, None
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    rgba = np.asarray(image.convert("RGBA"))
    alpha = _make_key_alpha(image, data) if image.mode == "RGB" else None
    if alpha is None:
        alpha = np.ascontiguousarray(rgba[..., 3])
    return np.ascontiguousarray(rgba[..., :3]), alpha


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except DAMAGE as error:
        raise truncation_error(image.format, error) from error


def _decode_jpeg(image: Image.Image, data: bytes) -> Pixels:
    """Decode as Pillow does, with the same library, in half its time."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # on data that Pillow tolerates, such as junk between markers
        _load(image)
        return np.asarray(image)
    return pixels


def _decode_gray16(image: Image.Image) -> tuple[Pixels, Pixels | None]:
    samples = np.asarray(image)
    key = image.info.get("transparency")
    alpha = None if key is None else np.where(samples == key, 0, 255).astype(np.uint8)
    return _gray_to_rgb((samples >> 8).astype(np.uint8)), alpha


def _scale_to_8_bits(image: Image.Image) -> Pixels:
    """Scale samples without a defined white; NaN becomes black."""
    with np.errstate(invalid="ignore"):  # which a cast may raise
        samples = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0)
    lowest, highest = samples.min(), samples.max()
    white = next((white for white in _WHITES if highest <= white), None)
    if white is None or lowest < 0:
        detail = f"sample values out of range: {lowest:g} to {highest:g}: scale to 0..1"
        raise PermanentError(Code.UNSUPPORTED, detail)
    return np.asarray(np.rint(samples * (255 / white)), np.uint8)


def _gray_to_rgb(gray: Pixels) -> Pixels:
    return np.repeat(gray[..., None], 3, axis=2)


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[_PNG_DEPTH] == 16
    if image.format == "TIFF":
        bits = image.getexif().get(ExifTags.Base.BitsPerSample)
        return bits is not None and max(bits if isinstance(bits, tuple) else (bits,)) == 16
    return False


def _make_key_alpha(image: Image.Image, data: bytes) -> Pixels | None:
    """Make alpha from a transparent color of 16 bits; Pillow compares the high bytes only."""
    key, rgb16 = image.info.get("transparency"), _read_rgb16(image, data)
    if rgb16 is None or not isinstance(key, tuple):
        return None
    return np.where((rgb16 == np.array(key, np.uint16)).all(axis=2), 0, 255).astype(np.uint8)


def _read_rgb16(image: Image.Image, data: bytes) -> Pixels16 | None:
    """Decode RGB uint16; None if the file has fewer bits, or OpenCV does not read all of them."""
    if not _has_16_bits(image, data) or (image.format == "PNG" and not _chunks_fit(data)):
        return None
    import cv2  # not at the top: the control image has none (decisions/0008)

    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        return None
    if samples.ndim == 2:
        return np.repeat(samples[..., None], 3, axis=2)
    return np.ascontiguousarray(samples[..., 2::-1])


def _chunks_fit(data: bytes) -> bool:
    """Whether each chunk of a PNG is as long as announced: OpenCV allocates before reading."""
    start = len(png.SIGNATURE)
    while start + 8 <= len(data) and data[start + 4 : start + 8] != b"IEND":
        start += 12 + int.from_bytes(data[start : start + 4])
    return start <= len(data)
