"""Hostile and odd files of other projects: each becomes a true cutout or has the right code."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.images.decode import decode
from bgpipe.pipeline.images.encode import encode
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.types import Matte, Output, Preset

LIMITS = Limits(160_000_000, 65_000, 2**29)

CODES = {
    "10ct_32bit_128.tiff": Code.UNSUPPORTED,
    "pngsuite_xc1n0g08.png": Code.NOT_IMAGE,
    "pngsuite_xcrn0g04.png": Code.NOT_IMAGE,
    "pngsuite_xd0n2c08.png": Code.NOT_IMAGE,
    "pngsuite_xdtn0g01.png": Code.TRUNCATED,
    "pngsuite_xhdn0g08.png": Code.NOT_IMAGE,
    "pngsuite_xlfn0g04.png": Code.NOT_IMAGE,
    "monkey12.jpg": Code.UNSUPPORTED,
    "decompression_bomb.gif": Code.TOO_LARGE,
    "decompression_bomb.ico": Code.UNSUPPORTED,
    "truncated_image.png": Code.TRUNCATED,
    "reallybig.bmp": Code.TOO_LARGE,
    "shortfile.bmp": Code.TRUNCATED,
    "la.tga": Code.NOT_IMAGE,  # the format has no signature
    "crash-1152ec2d1a1a71395b6f2ce6721c38924d025bf3.tif": Code.TRUNCATED,
    "truncated.gif": Code.TRUNCATED,
    "65536-uint32-limit.png": Code.TOO_LARGE,
    "sharp_truncated.jpg": Code.TRUNCATED,
    "giant-image.jpg": Code.TOO_LARGE,
    "hopper.heif": Code.UNSUPPORTED,  # this one and the next where pillow-heif is missing
    "zPug_3.heic": Code.UNSUPPORTED,
    "corrupted.heic": Code.TRUNCATED,
    "truncated.heic": Code.TRUNCATED,
}
FRAMES = {
    "sugarshack.mpo": 2,
    "dispose_op_none.png": 3,
    "chi.gif": 31,
    "different_transparency.gif": 2,
    "iss634.webp": 42,
    "big-height.webp": 99,
    "animated-loop-3.webp": 10,
    "G31D_MULTI.TIF": 2,
    "zPug_3.heic": 3,
    "advertises_rgba_but_frames_are_rgb.webp": 11,
    "ball.png": 20,
}
HAVE_ALPHA = {
    "16-bit-grey-alpha.png",
    "pngsuite_basn4a16.png",
    "pngsuite_basi6a08.png",
    "pngsuite_tbbn3p08.png",
    "pngsuite_tp1n3p08.png",
    "pngsuite_tbrn2c08.png",
    "pngsuite_tm3n3p02.png",
    "rgba32.bmp",
    "different_transparency.gif",
    "transparency.avif",
    "p_trns_single.png",
    "lossy_alpha.webp",
    "ball.png",
    "full-transparent.png",
}
HAVE_PROFILE = {"rgb.jpg", "ultra-hdr.jpg", "prophoto.png", "cat.jpg"}
# cv2 does not turn these, or opens them without their alpha, or expands 5 bits in another way.
LEFT_TO_PILLOW = {
    "rot1mir0.avif",
    "hopper_orientation_6.webp",
    "transparency.avif",
    "rgb16-565.bmp",
}
CONVERTED = {  # colours through a profile, which cv2 does not read
    "cmyk_pil.jpg": 3,
    "tiff_strip_cmyk_jpeg.tif": 3,
    "icc_profile_big.jpg": 25,
    "lab.tif": 40,
    "fogra-0-100-100-0.tif": 30,
    "rgb-3c-16b.tiff": 1,  # rounded by cv2
    "sample-xyb.jpg": 255,
}


@pytest.fixture
def torture(shared):
    return shared / "images" / "torture"


def test_every_file_has_a_cutout_or_the_right_code(torture):
    entries = json.loads((torture / "index.json").read_text())
    assert len(entries) >= 97
    wrong = []
    for entry in entries:
        name, data = entry["file"], (torture / entry["file"]).read_bytes()
        try:
            picture = decode(data, LIMITS)
        except PermanentError as error:
            if entry["expect"] == "ok" or error.code is not CODES.get(name):
                wrong.append((name, str(error)))
        else:
            if entry["expect"] == "reject":
                wrong.append((name, "decoded"))
            wrong += [(name, fault) for fault in _faults(name, picture, data)]
    assert wrong == []


def _faults(name, picture, data):
    if picture.frames != FRAMES.get(name, 1):
        yield f"{picture.frames} frames"
    if (picture.alpha is not None) != (name in HAVE_ALPHA):
        yield "alpha"
    if (picture.icc is not None) != (name in HAVE_PROFILE):
        yield "profile"
    cutout = cut_out(picture, Matte(np.ones((8, 8), np.float32)), Preset())
    image = Image.open(io.BytesIO(encode(cutout, picture, Output(), {})))
    if (image.mode, image.info.get("icc_profile")) != ("RGBA", picture.icc):
        yield f"written as {image.mode}"
    if 0x0112 in image.getexif():
        yield "an orientation is left"
    expected = _independent(name, data)
    if expected is None:
        return
    written = np.asarray(image)
    if written.shape[:2] != expected.shape[:2]:
        yield f"size {written.shape}"
        return
    opaque = written[..., 3] == 255
    difference = np.abs(written[opaque][:, :3] - expected[opaque].astype(int)).max(initial=0)
    if difference > CONVERTED.get(name, 0):
        yield f"colours differ by {difference}"


def _independent(name, data):
    """RGB by cv2's readers, which are not ours; by Pillow's where cv2 has none."""
    if name not in LEFT_TO_PILLOW:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is not None:
            return pixels
    if name.endswith((".heic", ".heif")):
        return None
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def test_eight_orientations_are_one_picture(torture):
    pictures = [
        decode((torture / f"exif_landscape_{i}.jpg").read_bytes(), LIMITS).rgb.astype(int)
        for i in range(1, 9)
    ]
    for picture in pictures[1:]:
        assert picture.shape == (1200, 1800, 3)
        # Each shows its own number in the middle; JPEG's blocks fall otherwise on a turned picture.
        assert np.abs(picture - pictures[0]).mean() < 4


def test_colours_in_xyb_look_like_the_photo(torture):
    rgb = decode((torture / "sample-xyb.jpg").read_bytes(), LIMITS).rgb
    overalls, field = rgb[150:300, 100:180], rgb[380:430, 20:80]
    assert overalls[..., 2].mean() > overalls[..., 0].mean() + 15
    assert field[..., 0].mean() > field[..., 2].mean() + 15
