"""Files to upright RGB pixels and back: the only user of the codecs.

The content says what a file is, never its name. Only the formats listed here are tried, limits are
judged from the header, and whatever a codec raises becomes one of our errors in this file.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms

from bgpipe.pipeline import png
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.types import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from cv2.typing import MatLike

    from bgpipe.pipeline.types import Cutout, Pixels

    Grey = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""What Pillow may try."""

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    png.SIGNATURE: "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\0\0\1\0": "ICO",
    b"v/1\1": "OpenEXR",
    b"qoif": "QOI",
    b"DDS ": "DDS",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# What Pillow and its codecs raise on damaged data; none of it says more than its message.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
)

_ORIENTATION = 0x0112
_NO_TURN = (False, None)
# EXIF's orientation: whether to transpose, then cv2's flip (1 left to right, 0 top to bottom, -1 both).
_TURNS: dict[int, tuple[bool, int | None]] = {
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest image taken: pixels in all, pixels on one side, bytes of the file."""

    max_pixels: int
    max_side: int
    max_bytes: int


def decode(data: bytes, limits: Limits) -> Picture:
    """The first frame, upright. 16-bit samples keep their high byte.

    Colours keep the source's numbers and RGB profile; CMYK and grey with a profile become sRGB.

    Raises:
        PermanentError: EMPTY, NOT_IMAGE, UNSUPPORTED, TOO_LARGE or TRUNCATED.

    """
    if not data:
        raise PermanentError(Code.EMPTY, "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise _too_large(f"{len(data)} bytes", f"{limits.max_bytes} bytes")
    image = _open(data, limits)
    _check_size(image.size, limits)
    rgb, alpha, icc = _channels(image, data)
    orientation = _orientation(image)
    return Picture(
        rgb=_upright(rgb, orientation),
        alpha=None if alpha is None else _upright(alpha, orientation),
        icc=icc,
        dpi=_dpi(image, sideways=_TURNS.get(orientation, _NO_TURN)[0]),
    )


def model_input(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """The picture at `size` (height, width), its aspect given up, as the network was trained."""
    height, width = size
    resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)


def encode_png(cutout: Cutout, picture: Picture, text: Mapping[str, str]) -> bytes:
    """The cutout as a PNG with its picture's profile and resolution, and the given text."""
    return png.encode(cutout.rgba, text=text, icc=picture.icc, dpi=picture.dpi)


def thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
    """The image as a WebP file whose longer side has at most `side` pixels.

    Raises:
        PermanentError: as `decode` does.

    """
    picture = decode(data, limits)
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "WEBP", icc_profile=picture.icc)
    return file.getvalue()


def _open(data: bytes, limits: Limits) -> Image.Image:
    # Pillow warns above this and refuses above its double, before some codecs allocate a canvas.
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("the header's size", f"{limits.max_pixels} pixels") from error
    except _DAMAGE as error:
        raise _refusal(data) from error


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise _too_large(f"{width} x {height} pixels", f"{limits.max_pixels} pixels")
    if max(size) > limits.max_side:
        raise _too_large(f"{width} x {height} pixels", f"{limits.max_side} pixels on one side")


def _too_large(found: str, limit: str) -> PermanentError:
    return PermanentError(Code.TOO_LARGE, f"{found}: larger than images allow, {limit}")


def _refusal(data: bytes) -> PermanentError:
    """Why no codec took the header."""
    name = _format_name(data)
    if name is None:
        return PermanentError(Code.NOT_IMAGE, "the content is no image format that is known")
    if name not in FORMATS:
        return PermanentError(Code.UNSUPPORTED, f"{name} is not read: convert it to PNG or JPEG")
    if _is_cut_short(name, data):
        return PermanentError(Code.TRUNCATED, f"{name} cut short: {len(data)} bytes are there")
    if name == "PNG":  # few forms are valid and the header has a checksum: this one is damaged
        return PermanentError(Code.NOT_IMAGE, "the header of this PNG is damaged")
    return PermanentError(Code.UNSUPPORTED, f"a kind of {name} that is not read, or damaged")


def _format_name(data: bytes) -> str | None:
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = data[8:64]
        return "AVIF" if b"avif" in brands else "HEIF" if brands[:4] in _HEIF_BRANDS else None
    return "SVG" if b"<svg" in data[:1024] else None


def _is_cut_short(name: str, data: bytes) -> bool:
    if name == "PNG":
        return b"IEND" not in data
    if name == "JPEG":
        return b"\xff\xd9" not in data
    return name == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)


def _channels(image: Image.Image, data: bytes) -> tuple[Pixels, Grey | None, bytes | None]:
    """RGB, alpha unless it is opaque throughout, and the profile that still describes the RGB."""
    icc = image.info.get("icc_profile") or b""
    space = icc[16:20] if icc[36:40] == b"acsp" else b""
    rgb, alpha = _decoded(image, data)
    if space == b"CMYK" and image.mode == "CMYK":
        rgb = _to_srgb(image, icc, otherwise=rgb)
    elif space == b"GRAY" and _is_grey(rgb):
        rgb = _to_srgb(Image.fromarray(np.ascontiguousarray(rgb[..., 0])), icc, otherwise=rgb)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    return rgb, alpha, icc if space == b"RGB " else None


def _decoded(image: Image.Image, data: bytes) -> tuple[Pixels, Grey | None]:
    if image.format in ("JPEG", "MPO") and image.mode == "RGB":
        return _decoded_jpeg(image, data), None
    _load(image)
    if image.mode.startswith("I;16"):
        return _decoded_grey16(image)
    if image.mode in ("I", "F", "LAB"):
        raise PermanentError(Code.UNSUPPORTED, f"samples that are not read: {image.mode}")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    rgba = np.asarray(image.convert("RGBA"))
    return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except _DAMAGE as error:
        raise PermanentError(
            Code.TRUNCATED, f"{image.format} cut short or damaged: {error}"
        ) from error


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
    grey = (samples >> 8).astype(np.uint8)
    key = image.info.get("transparency")
    alpha = None if key is None else np.where(samples == key, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), alpha


def _is_grey(rgb: Pixels) -> bool:
    return bool((rgb == rgb[..., :1]).all())


def _to_srgb(image: Image.Image, icc: bytes, *, otherwise: Pixels) -> Pixels:
    """Through the embedded profile; one that cannot be read counts as none."""
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return otherwise
    return otherwise if converted is None else np.asarray(converted)


def _orientation(image: Image.Image) -> int:
    """1 to 8 as in EXIF; 1 where the tag is missing or cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return value if isinstance(value, int) else 1


def _upright(pixels: Grey, orientation: int) -> Grey:
    transposed, flip = _TURNS.get(orientation, _NO_TURN)
    turned: MatLike = cv2.transpose(pixels) if transposed else pixels
    return np.asarray(turned if flip is None else cv2.flip(turned, flip), np.uint8)


def _dpi(image: Image.Image, *, sideways: bool) -> tuple[float, float] | None:
    """Dots per inch across and down the upright picture."""
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    if not (0 < x < math.inf and 0 < y < math.inf):
        return None
    return (y, x) if sideways else (x, y)
