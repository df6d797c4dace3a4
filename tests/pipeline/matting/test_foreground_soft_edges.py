"""What a soft edge looks like on another background, with its own colour and with the old one's."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bgpipe.pipeline.evaluation.metrics import composite_over
from bgpipe.pipeline.matting.cutout import cut_out
from bgpipe.pipeline.types import DecodedImage, Matte, Preset

GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "green": (0, 160, 0)}
SIZE = (420, 560)


def cloth(cells, low, high, seed):
    patches = np.random.default_rng(seed).uniform(low, high, (cells, cells, 3))
    return np.clip(cv2.resize(patches, SIZE[::-1], interpolation=cv2.INTER_CUBIC), 0, 255)


def disc():
    matte = np.zeros(SIZE, np.float32)
    cv2.circle(matte, (280, 210), 140, 1.0, -1)
    return matte


def hair():
    matte = disc()
    for angle in np.linspace(0, 2 * np.pi, 60):
        tip = (round(280 + 190 * np.cos(angle)), round(210 + 190 * np.sin(angle)))
        cv2.line(matte, (280, 210), tip, 1.0, 2, cv2.LINE_AA)
    return matte


def scenes():
    """Edges from sharp to out of focus, and hair that is in focus, each with three cloths."""
    for shape, sigma in ((disc, 1.0), (disc, 2.5), (disc, 5.0), (hair, 0.7)):
        for seed in range(3):
            yield cv2.GaussianBlur(shape(), (0, 0), sigma), seed


def test_soft_edges_are_within_two_levels_on_any_background(capsys):
    """Mean over the soft pixels; compositing with alpha alone leaves the old background in them."""
    errors = {(name, way): [] for name in GROUNDS for way in ("foreground", "alpha only")}
    for alpha, seed in scenes():
        subject = cloth(6, (150, 80, 40), (250, 170, 100), seed)
        old = cloth(6, (10, 40, 60), (90, 150, 210), seed + 10)
        share = alpha[..., None]
        seen = DecodedImage(np.rint(share * subject + (1 - share) * old).astype(np.uint8))
        levels = np.rint(alpha * 255).astype(np.uint8)
        truth = np.dstack([np.rint(subject).astype(np.uint8), levels])
        soft = (levels > 0) & (levels < 255)
        for way, preset in (
            ("foreground", Preset()),
            ("alpha only", Preset(foreground=False)),
        ):
            ours = cut_out(seen, Matte(alpha), preset).rgba
            for name, ground in GROUNDS.items():
                pair = (composite_over(x[None, soft], np.float32(ground)) for x in (ours, truth))
                errors[name, way].append(np.abs(np.subtract(*pair)).mean())
    with capsys.disabled():
        print()
        for (name, way), found in errors.items():
            print(f"composite error over {name}, {way}: {np.mean(found):.2f} of 255")
    for name in GROUNDS:
        assert np.mean(errors[name, "foreground"]) <= 2
        assert np.mean(errors[name, "alpha only"]) > 4 * np.mean(errors[name, "foreground"])


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_a_subject_of_one_colour_keeps_it_to_the_last_soft_pixel(sigma):
    alpha = cv2.GaussianBlur(disc(), (0, 0), sigma)
    share = alpha[..., None]
    seen = DecodedImage(
        np.rint(share * [200, 60, 40] + (1 - share) * [20, 60, 220]).astype(np.uint8)
    )
    rgba = cut_out(seen, Matte(alpha), Preset()).rgba
    visible = rgba[..., 3] > 12
    assert np.abs(rgba[visible, :3].astype(int) - [200, 60, 40]).mean() < 4
