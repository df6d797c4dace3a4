"""Files that the tests of the codecs make themselves."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import ImageCms

from bgpipe.pipeline.images import Limits

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
