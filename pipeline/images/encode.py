"""From a cutout to the bytes of a file, in the format of its recipe."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bgpipe.config.output import FILE_FORMATS
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images import png, provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bgpipe.config.output import Format
    from bgpipe.pipeline.types import Cutout, DecodedImage, Output, Pixels, Pixels16

    Text = Mapping[str, str]
    Encoder = Callable[[Cutout, DecodedImage, Output, Text], bytes]

COLOR, ALPHA = "colour.jpg", "alpha.png"
"""The members of a ZIP."""

_STRIP_ROWS = 64
"""Computed at once in 32 bits."""
_XMP_BOX = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
"""UUID of the box that holds XMP in an ISO media file (ISO 16684-1, part 3)."""


def encode(cutout: Cutout, image: DecodedImage, output: Output, text: Text) -> bytes:
    """Encode the cutout of `image` with its profile, and with `text` about its provenance.

    Raises PermanentError: TOO_LARGE, a side is too long for the format.
    """
    longest = FILE_FORMATS[output.format].longest_side
    if max(cutout.rgba.shape[:2]) > longest:
        detail = f"{output.format} holds sides up to {longest} pixels: write png"
        raise PermanentError(Code.TOO_LARGE, detail)
    return _ENCODERS[output.format](cutout, image, output, text)


def _png(cutout: Cutout, image: DecodedImage, output: Output, text: Text) -> bytes:
    samples: png.Samples = cutout.rgba
    icc = image.icc
    if output.format == "mask":
        samples, icc = np.ascontiguousarray(cutout.rgba[..., 3]), None
    elif output.depth == 16 and image.rgb16 is not None:
        samples = _to_16_bits(cutout.rgba, image.rgb, image.rgb16)
    if output.compression == "fast" or samples.itemsize == 2:
        return png.encode(samples, text=text, icc=icc, dpi=image.dpi)
    data = save(Image.fromarray(samples), "PNG", compress_level=9)
    return png.annotate(data, text=text, icc=icc, dpi=image.dpi)


def _webp(cutout: Cutout, image: DecodedImage, output: Output, text: Text) -> bytes:
    return save(
        Image.fromarray(cutout.rgba),
        "WEBP",
        quality=output.quality,
        lossless=output.quality == 100,
        exact=True,  # zero colors stay zero
        method=6 if output.compression == "small" else 2,
        icc_profile=image.icc,
        xmp=provenance.xmp_packet(text),
    )


def _avif(cutout: Cutout, image: DecodedImage, output: Output, text: Text) -> bytes:
    data = save(
        Image.fromarray(cutout.rgba),
        "AVIF",
        quality=output.quality,
        speed=4 if output.compression == "small" else 8,
        icc_profile=image.icc,
    )
    body = _XMP_BOX + provenance.xmp_packet(text)
    return data + (len(body) + 8).to_bytes(4) + b"uuid" + body


def _jpeg(cutout: Cutout, image: DecodedImage, output: Output, text: Text) -> bytes:
    return _any_jpeg(cutout.rgba[..., :3], image, output, xmp=provenance.xmp_packet(text))


def _zip(cutout: Cutout, image: DecodedImage, output: Output, text: Text) -> bytes:
    """Encode color and alpha apart: smaller and faster than any format that holds both.

    Behind the subject the source's colors stay, so that JPEG has no edge to smear.
    """
    rgb, alpha = cutout.rgba[..., :3], cutout.rgba[..., 3]
    if rgb.shape == image.rgb.shape:
        rgb = np.where((alpha == 0)[..., None], image.rgb, rgb)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo has no time, so that the same cutout gives the same bytes.
        archive.writestr(zipfile.ZipInfo(COLOR), _any_jpeg(rgb, image, output))
        mask = png.encode(np.ascontiguousarray(alpha), text=text)
        archive.writestr(zipfile.ZipInfo(ALPHA), mask)
        archive.comment = provenance.xmp_packet(text)
    return file.getvalue()


def _any_jpeg(rgb: Pixels, image: DecodedImage, output: Output, xmp: bytes = b"") -> bytes:
    return save(
        Image.fromarray(np.ascontiguousarray(rgb)),
        "JPEG",
        quality=output.quality,
        subsampling="4:4:4" if output.quality >= 90 else "4:2:0",
        optimize=output.compression == "small",
        dpi=image.dpi or (0, 0),
        icc_profile=image.icc,
        **({"xmp": xmp} if xmp else {}),
    )


def save(image: Image.Image, file_format: str, **options: Any) -> bytes:  # noqa: ANN401  # Pillow's
    """Encode by Pillow."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _to_16_bits(rgba: Pixels, rgb: Pixels, rgb16: Pixels16) -> Pixels16:
    """Return the source's own 16-bit samples, shifted where a soft edge lost its background."""
    samples = np.empty(rgba.shape, np.uint16)
    for top in range(0, len(rgba), _STRIP_ROWS):
        rows = slice(top, top + _STRIP_ROWS)
        alpha = rgba[rows, :, 3:].astype(np.int32)
        shift = (rgba[rows, :, :3].astype(np.int32) - rgb[rows]) * 257
        samples[rows, :, :3] = np.where(alpha == 0, 0, np.clip(rgb16[rows] + shift, 0, 65535))
        samples[rows, :, 3:] = alpha * 257
    return samples


_ENCODERS: Mapping[Format, Encoder] = {
    "png": _png,
    "mask": _png,
    "webp": _webp,
    "avif": _avif,
    "jpeg": _jpeg,
    "zip": _zip,
}
