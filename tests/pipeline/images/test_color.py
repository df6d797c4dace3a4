"""What the network sees of a wide-gamut picture, and how sRGB colours get into one."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from bgpipe.pipeline.images.color import from_srgb, to_viewed_srgb
from bgpipe.pipeline.images.decode import decode

from .files import LIMITS, SRGB, saved, scene

# D50-adapted primaries of Display P3, as its profile has them.
P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))


def p3_profile():
    """The sRGB profile with the wider primaries put in."""
    icc = bytearray(SRGB)
    for i in range(int.from_bytes(icc[128:132])):
        tag, start, _ = struct.unpack_from(">4sII", icc, 132 + 12 * i)
        if tag in (b"rXYZ", b"gXYZ", b"bXYZ"):
            primary = P3[b"rgb".index(tag[:1])]
            struct.pack_into(">3i", icc, start + 8, *(round(65536 * value) for value in primary))
    return bytes(icc)


def test_a_wide_gamut_picture_keeps_its_numbers_and_its_profile():
    data = saved(Image.fromarray(scene()), "PNG", icc_profile=p3_profile())
    picture = decode(data, LIMITS)
    assert np.array_equal(picture.rgb, scene())
    assert picture.icc == p3_profile()


def test_the_network_sees_the_colours_of_a_wide_gamut_picture():
    leaf = np.array([[[120, 200, 90]]], np.uint8)
    seen = to_viewed_srgb(leaf, p3_profile())[0, 0].astype(int)
    assert seen == pytest.approx([90, 202, 72], abs=2)  # by P3's matrix to linear sRGB


def test_srgb_pixels_are_seen_as_they_are():
    assert to_viewed_srgb(scene(), None) is not None
    assert np.array_equal(to_viewed_srgb(scene(), None), scene())
    assert np.abs(to_viewed_srgb(scene(), SRGB) - scene().astype(int)).max() <= 1
    assert to_viewed_srgb(scene(), SRGB).flags.writeable  # as torch wants it


def test_a_profile_that_cannot_be_read_counts_as_none():
    assert np.array_equal(to_viewed_srgb(scene(), SRGB[:200]), scene())


def test_an_srgb_colour_put_into_a_wide_gamut_picture_looks_the_same():
    colours = np.array([[[255, 255, 255], [200, 40, 90], [0, 0, 0]]], np.uint8)
    stored = from_srgb(colours, p3_profile())
    assert not np.array_equal(stored, colours)
    assert np.abs(to_viewed_srgb(stored, p3_profile()) - colours.astype(int)).max() <= 2
