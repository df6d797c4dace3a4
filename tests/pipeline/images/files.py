"""Files that the tests of the codecs make themselves."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import ImageCms

from bgpipe.pipeline.images.limits import Limits

LIMITS = Limits(max_pixels=10_000_000, max_side=8_000, max_bytes=5_000_000, max_frames=50)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def scene(height=60, width=90):
    """Smooth colours with an edge, so that a JPEG of it has something to say."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    rgb[: height // 2, : width // 3] = (200, 30, 90)
    return rgb


def saved(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(kind, body):
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def png_header(width, height, depth=8, colour=2):
    body = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body)


def png_of_16_bits(samples, *, key=None):
    """The samples [H, W, 1, 2, 3 or 4] as a PNG, with the transparent colour `key`."""
    height, width, channels = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    transparency = b"" if key is None else chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return png_header(width, height, 16, colour) + transparency + pixels + b"\0\0\0\0IEND\xaeB`\x82"


def table_profile():
    """An RGB profile that only a table explains: red is lightness, green and blue are nothing."""
    lattice = b"".join(bytes([255 * red, 128, 128]) for red in (0, 1) for _ in range(4))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    curves = bytes(range(256)) * 3
    table = b"mft1\0\0\0\0\x03\x03\x02\0" + matrix + curves + lattice + curves
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc\0\0\0\0\0\0\0\x02t\0".ljust(90, b"\0") + b"\0\0"
    bodies = {b"A2B0": table, b"wtpt": white, b"desc": text, b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    start, entries, data = 132 + 12 * len(bodies), b"", b""
    for tag, body in bodies.items():
        body += b"\0" * (-len(body) % 4)
        entries += tag + struct.pack(">II", start + len(data), len(body))
        data += body
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\x02\x40\0\0", b"scnrRGB Lab ", b"acsp"
    head[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    whole = head + len(bodies).to_bytes(4) + entries + data
    whole[:4] = len(whole).to_bytes(4)
    return bytes(whole)


TIFF_KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 10: "i"}
TIFF_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 10: 8}
CFA, RGGB = 32803, (0, 1, 1, 2)
XYZ_TO_SRGB = (3.2405, -1.5371, -0.4985, -0.9693, 1.8760, 0.0416, 0.0556, -0.2040, 1.0572)


def mosaic(rgb):
    """What a sensor under RGGB filters sees of an image [H, W, 3]; both sides are even."""
    samples = rgb[..., 1].copy()
    samples[0::2, 0::2] = rgb[0::2, 0::2, 0]
    samples[1::2, 1::2] = rgb[1::2, 1::2, 2]
    return samples


def dng(samples, *, orientation=1, neutral=(1, 1, 1), make=b"bgpipe", order="<", changes=()):
    """Linear samples uint16 [H, W] as the RAW file of a camera whose colors are sRGB's.

    `changes` replace tags: (kind, values) by number, or None to leave one out.
    """
    height, width = samples.shape
    matrix = [n for value in XYZ_TO_SRGB for n in (round(value * 10_000), 10_000)]
    tags = {
        254: (4, [0]),
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [16]),
        259: (3, [1]),
        262: (3, [CFA]),
        271: (2, [*make, 0]),
        272: (2, b"camera\0"),
        273: (4, [0]),  # where the samples start: set below
        274: (3, [orientation]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [2 * samples.size]),
        33421: (3, [2, 2]),
        33422: (1, RGGB),
        50706: (1, [1, 4, 0, 0]),
        50708: (2, b"bgpipe camera\0"),
        50714: (3, [0]),
        50717: (4, [65535]),
        50721: (10, matrix),
        50728: (5, [n for value in neutral for n in (round(value * 1000), 1000)]),
        50778: (3, [21]),  # daylight of 6,500 K
    }
    tags = {tag: value for tag, value in (tags | dict(changes)).items() if value is not None}
    return tiff(tags, samples.astype(f"{order}u2").tobytes(), order)


def tiff(tags, samples, order="<", sub=None):
    """A TIFF of one directory, and of one below it, then the samples, which the tag 273 names."""
    start = 8 + _directory_bytes(tags)
    end = start + (_directory_bytes(sub) if sub else 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    places = {273: end, 330: start}
    tables = _directory(tags, 8, order, places) + (
        _directory(sub, start, order, places) if sub else b""
    )
    return head + tables + samples


def _directory(tags, start, order, places):
    """The bytes of a directory that begins at `start`; `places` are the values of some tags."""
    entries, values = b"", b""
    for tag, (kind, numbers) in sorted(tags.items()):
        numbers = [places[tag]] if tag in places else numbers
        packed = struct.pack(f"{order}{len(numbers)}{TIFF_KINDS[kind]}", *numbers)
        count = len(packed) // TIFF_WIDTHS[kind]
        if len(packed) > 4:
            at = start + 6 + 12 * len(tags) + len(values)
            values += packed + b"\0" * (len(packed) % 2)
            packed = struct.pack(f"{order}I", at)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + packed.ljust(4, b"\0")
    return struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0" + values


def _directory_bytes(tags):
    lengths = [len(numbers) * struct.calcsize(f"<{TIFF_KINDS[k]}") for k, numbers in tags.values()]
    return 6 + 12 * len(tags) + sum(length + length % 2 for length in lengths if length > 4)
