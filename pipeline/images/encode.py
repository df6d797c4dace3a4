"""A cutout becomes a file's bytes, in the format that its recipe asks for."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import png, provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from bgpipe.pipeline.types import Cutout, DecodedImage, Output, Pixels, Pixels16

    Text = Mapping[str, str]
    Encoder = Callable[[Cutout, DecodedImage, Output, Text], bytes]

COLOUR, ALPHA = "colour.jpg", "alpha.png"
"""The members of a ZIP."""

_LONGEST_SIDES = {"webp": 16383, "avif": 65535, "jpeg": 65500, "zip": 65500}
_STRIP = 64
"""Rows that are computed at once in 32 bits."""
_XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
"""The kind of an ISO media file's box that holds XMP (ISO 16684-1, part 3)."""


def encode(cutout: Cutout, picture: DecodedImage, output: Output, text: Text) -> bytes:
    """The cutout as a file that says how it was made.

    Colours are those of the picture's profile, which the file carries.

    Raises:
        PermanentError: TOO_LARGE, the format cannot hold so long a side.

    """
    longest = _LONGEST_SIDES.get(output.format, png.LONGEST_SIDE)
    if max(cutout.rgba.shape[:2]) > longest:
        raise PermanentError(
            Code.TOO_LARGE, f"{output.format} holds sides up to {longest} pixels: write png"
        )
    return _ENCODERS[output.format](cutout, picture, output, text)


def _png(cutout: Cutout, picture: DecodedImage, output: Output, text: Text) -> bytes:
    if output.depth == 16 and picture.rgb16 is not None:
        samples = _deepened(cutout.rgba, picture.rgb, picture.rgb16)
        return png.encode(samples, text=text, icc=picture.icc, dpi=picture.dpi)
    if output.compression == "fast":
        return png.encode(cutout.rgba, text=text, icc=picture.icc, dpi=picture.dpi)
    data = _saved(Image.fromarray(cutout.rgba), "PNG", compress_level=9)
    return png.annotated(data, text=text, icc=picture.icc, dpi=picture.dpi)


def _mask(cutout: Cutout, picture: DecodedImage, output: Output, text: Text) -> bytes:
    alpha = np.ascontiguousarray(cutout.rgba[..., 3])
    if output.compression == "fast":
        return png.encode(alpha, text=text, dpi=picture.dpi)
    data = _saved(Image.fromarray(alpha), "PNG", compress_level=9)
    return png.annotated(data, text=text, dpi=picture.dpi)


def _webp(cutout: Cutout, picture: DecodedImage, output: Output, text: Text) -> bytes:
    return _saved(
        Image.fromarray(cutout.rgba),
        "WEBP",
        quality=output.quality,
        lossless=output.quality == 100,
        exact=True,  # colours that are zero stay so
        method=6 if output.compression == "small" else 2,
        icc_profile=picture.icc,
        xmp=provenance.xmp_packet(text),
    )


def _avif(cutout: Cutout, picture: DecodedImage, output: Output, text: Text) -> bytes:
    data = _saved(
        Image.fromarray(cutout.rgba),
        "AVIF",
        quality=output.quality,
        speed=4 if output.compression == "small" else 8,
        icc_profile=picture.icc,
    )
    body = _XMP_BOX + provenance.xmp_packet(text)
    return data + (len(body) + 8).to_bytes(4) + b"uuid" + body


def _jpeg(cutout: Cutout, picture: DecodedImage, output: Output, text: Text) -> bytes:
    return _jpeg_file(cutout.rgba[..., :3], picture, output, xmp=provenance.xmp_packet(text))


def _zip(cutout: Cutout, picture: DecodedImage, output: Output, text: Text) -> bytes:
    """Colour and alpha apart: smaller and faster than any file that holds both.

    Behind the subject the colours stay, so that JPEG has no edge to smear.
    """
    rgb, alpha = cutout.rgba[..., :3], cutout.rgba[..., 3]
    if rgb.shape == picture.rgb.shape:
        rgb = np.where((alpha == 0)[..., None], picture.rgb, rgb)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member(COLOUR), _jpeg_file(rgb, picture, output))
        archive.writestr(_member(ALPHA), png.encode(np.ascontiguousarray(alpha), text=text))
        archive.comment = provenance.xmp_packet(text)
    return file.getvalue()


def _jpeg_file(rgb: Pixels, picture: DecodedImage, output: Output, xmp: bytes = b"") -> bytes:
    return _saved(
        Image.fromarray(np.ascontiguousarray(rgb)),
        "JPEG",
        quality=output.quality,
        subsampling="4:4:4" if output.quality >= 90 else "4:2:0",
        optimize=output.compression == "small",
        dpi=picture.dpi or (0, 0),
        icc_profile=picture.icc,
        **({"xmp": xmp} if xmp else {}),
    )


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:  # noqa: ANN401  # Pillow's
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    """Without the time, so that the same cutout gives the same bytes."""
    return zipfile.ZipInfo(name)


def _deepened(rgba: Pixels, rgb: Pixels, deep: Pixels16) -> npt.NDArray[np.uint16]:
    """RGBA of 16 bits: the source's own numbers, shifted where a soft edge lost its background."""
    samples = np.empty(rgba.shape, np.uint16)
    for top in range(0, len(rgba), _STRIP):
        rows = slice(top, top + _STRIP)
        alpha = rgba[rows, :, 3:].astype(np.int32)
        shift = (rgba[rows, :, :3].astype(np.int32) - rgb[rows]) * 257
        samples[rows, :, :3] = np.where(alpha == 0, 0, np.clip(deep[rows] + shift, 0, 65535))
        samples[rows, :, 3:] = alpha * 257
    return samples


_ENCODERS: dict[str, Encoder] = {
    "png": _png,
    "mask": _mask,
    "webp": _webp,
    "avif": _avif,
    "jpeg": _jpeg,
    "zip": _zip,
}
