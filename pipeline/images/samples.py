"""From an opened file to samples: 8 bits a channel, and 16 where they are there and asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import color, png
from bgpipe.pipeline.images.formats import truncated
from bgpipe.pipeline.images.header import DAMAGE

if TYPE_CHECKING:
    import numpy.typing as npt

    from bgpipe.pipeline.types import Pixels, Pixels16

    Grey = npt.NDArray[np.uint8]

_PNG_DEPTH = 24
"""Where a PNG's header says how many bits a sample has."""
_BITS_PER_SAMPLE = 258
_WHITES = (1, 255, 65535)
"""What float and 32-bit samples may mean by white: the least that none of them exceeds."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A picture as it is stored, not yet upright.

    `alpha` is None where all of it is opaque; `icc` describes the RGB, which is sRGB without it;
    `deep` is the same RGB with 16 bits a channel.
    """

    rgb: Pixels
    alpha: Grey | None
    icc: bytes | None
    rgb16: Pixels16 | None


def read_samples(image: Image.Image, data: bytes, *, keep_16_bits: bool) -> Samples:
    """Decode the first frame; `deep` asks for 16 bits where the file has them.

    Raises:
        PermanentError: TRUNCATED or UNSUPPORTED.

    """
    icc = image.info.get("icc_profile") or b""
    rgb, alpha = _decoded(image, data)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    converted = _through_profile(image, icc, rgb)
    if converted is not None:
        return Samples(converted, alpha, None, None)
    kept = color.space_of(icc) == b"RGB " and color.is_matrix(icc) and image.mode != "CMYK"
    return Samples(
        rgb, alpha, icc if kept else None, _read_rgb16(image, data) if keep_16_bits else None
    )


def _through_profile(image: Image.Image, icc: bytes, rgb: Pixels) -> Pixels | None:
    """The picture as sRGB, if its profile is one whose numbers cannot be kept."""
    match color.space_of(icc):
        case b"CMYK" if image.mode == "CMYK":
            return color.to_srgb(image, icc)
        case b"GRAY" if _is_grey(rgb):
            return color.to_srgb(Image.fromarray(np.ascontiguousarray(rgb[..., 0])), icc)
        case b"RGB " if image.mode != "CMYK" and not color.is_matrix(icc):
            return color.to_srgb(Image.fromarray(rgb), icc)
    return None


def _decoded(image: Image.Image, data: bytes) -> tuple[Pixels, Grey | None]:
    if image.format in ("JPEG", "MPO") and image.mode == "RGB":
        return _decoded_jpeg(image, data), None
    _load(image)
    if image.mode.startswith("I;16"):
        return _decoded_grey16(image)
    if image.mode in ("I", "F"):
        return _grey_to_rgb(_scaled(image)), None
    if image.mode == "LAB":
        return _decoded_lab(image), None
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    rgba = np.asarray(image.convert("RGBA"))
    alpha = _key_alpha16(image, data) if image.mode == "RGB" and _has_16_bits(image, data) else None
    return np.ascontiguousarray(rgba[..., :3]), (
        np.ascontiguousarray(rgba[..., 3]) if alpha is None else alpha
    )


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except DAMAGE as error:
        raise truncated(image.format, error) from error


def _decoded_jpeg(image: Image.Image, data: bytes) -> Pixels:
    """The same library as Pillow's gives the same pixels in half the time."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # it stops at what Pillow can pass over, such as junk between markers
        _load(image)
        return np.asarray(image)
    return pixels


def _decoded_grey16(image: Image.Image) -> tuple[Pixels, Grey | None]:
    samples = np.asarray(image)
    key = image.info.get("transparency")
    alpha = None if key is None else np.where(samples == key, 0, 255).astype(np.uint8)
    return _grey_to_rgb((samples >> 8).astype(np.uint8)), alpha


def _decoded_lab(image: Image.Image) -> Pixels:
    rgb = color.lab_to_srgb(image)
    if rgb is None:
        raise PermanentError(Code.UNSUPPORTED, "a kind of LAB that is not read: convert it to RGB")
    return rgb


def _scaled(image: Image.Image) -> Grey:
    """Samples without a known white to 8 bits; values that are no numbers are black."""
    with np.errstate(invalid="ignore"):  # a cast says so of some of them
        known = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0)
    lowest, highest = known.min(), known.max()
    white = next((white for white in _WHITES if highest <= white), None)
    if white is None or lowest < 0:
        raise PermanentError(
            Code.UNSUPPORTED,
            f"samples from {lowest:g} to {highest:g} are no picture: scale them to 0 to 1",
        )
    return np.asarray(np.rint(known * (255 / white)), np.uint8)


def _grey_to_rgb(grey: Grey) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=2)


def _is_grey(rgb: Pixels) -> bool:
    return bool((rgb == rgb[..., :1]).all())


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG":
        return data[_PNG_DEPTH] == 16
    if image.format == "TIFF":
        bits = image.getexif().get(_BITS_PER_SAMPLE)
        return bits is not None and max(bits if isinstance(bits, tuple) else (bits,)) == 16
    return False


def _key_alpha16(image: Image.Image, data: bytes) -> Grey | None:
    """Alpha by a transparent colour of 16 bits, of which Pillow sees the high bytes only."""
    key, deep = image.info.get("transparency"), _read_rgb16(image, data)
    if deep is None or not isinstance(key, tuple):
        return None
    return np.where((deep == np.array(key, np.uint16)).all(axis=2), 0, 255).astype(np.uint8)


def _read_rgb16(image: Image.Image, data: bytes) -> Pixels16 | None:
    """RGB uint16; None where the file has fewer bits, or its kind is not read with all of them."""
    if not _has_16_bits(image, data) or (image.format == "PNG" and not _chunks_fit(data)):
        return None
    import cv2  # not where files are only vetted: the control image has none (decisions/0007)

    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        return None
    if samples.ndim == 2:
        return np.repeat(samples[..., None], 3, axis=2)
    return np.ascontiguousarray(samples[..., 2::-1])


def _chunks_fit(data: bytes) -> bool:
    """Whether each chunk of a PNG is as long as it says: OpenCV allocates it before reading it."""
    at = len(png.SIGNATURE)
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4])
    return at <= len(data)
