"""What the colours of a picture say about its subject."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from bgpipe.pipeline.model.evidence import (
    ColourEvidence,
    against_border,
    agreement,
    likenesses_of,
    to_lab,
)
from bgpipe.pipeline.model.resize import DEVIATION, MEAN

BLUE, ORANGE, GREEN = (0.1, 0.2, 0.8), (0.9, 0.5, 0.1), (0.2, 0.6, 0.2)
SIDE = 96


def normalised(image: Tensor) -> Tensor:
    """[B,3,H,W] in [0,1] as the network takes it."""
    mean, deviation = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, DEVIATION))
    return (image - mean) / deviation


def plain(colour: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colour).view(1, 3, 1, 1).repeat(1, 1, SIDE, SIDE)


def painted(image: Tensor, colour: tuple[float, float, float], y: slice, x: slice) -> Tensor:
    """Where it was painted, [H,W]; the image itself is changed."""
    image[:, :, y, x] = torch.tensor(colour).view(1, 3, 1, 1)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[y, x] = True
    return inside


def border_of(image: Tensor) -> Tensor:
    """[B,H,W]: what the border says where the network says nothing."""
    nothing = image.new_zeros(len(image), 1, *image.shape[2:])
    return against_border(likenesses_of(image), nothing)[:, 0]


@pytest.mark.parametrize("at", [(32, 32), (24, 44), (48, 20)])
def test_what_has_not_the_colours_of_the_border_stands_out(at: tuple[int, int]) -> None:
    image = plain(BLUE)
    inside = painted(image, ORANGE, slice(at[0], at[0] + 32), slice(at[1], at[1] + 32))
    says = border_of(normalised(image))[0]
    assert says[inside].mean() > 2
    assert says[~inside].mean() < -0.5
    assert says[0, 0] < -0.5


def test_what_shows_the_ground_in_the_middle_of_a_subject_is_ground() -> None:
    image = plain(BLUE)
    painted(image, GREEN, slice(24, 72), slice(24, 72))
    painted(image, BLUE, slice(40, 56), slice(40, 56))
    says = border_of(normalised(image))[0]
    assert (says[46:50, 46:50] < 0).all()
    assert (says[30:34, 46:50] > 1).all()


def test_a_picture_of_one_colour_tells_nothing() -> None:
    image = normalised(plain(GREEN))
    torch.testing.assert_close(border_of(image), torch.zeros(1, SIDE, SIDE), atol=1e-3, rtol=0)


def test_colours_of_what_was_found_are_found_elsewhere_too() -> None:
    """Half of a thing was found, at the border of the picture; something else was not."""
    image = plain(BLUE)
    whole = painted(image, ORANGE, slice(0, 64), slice(32, 64))
    other = painted(image, GREEN, slice(72, 88), slice(8, 24))
    found = torch.full((1, 1, SIDE, SIDE), -4.0)
    found[:, :, 0:32, 32:64] = 4
    says = agreement(likenesses_of(normalised(image)), found)[0, 0]
    assert (says[40:60, 36:60] > 1).all()
    assert (says[~whole] < 0).all()
    assert says[other].mean() < -1


@pytest.mark.parametrize("logit", [-12.0, 12.0])
def test_an_answer_of_nothing_or_everything_stays_what_it_is(logit: float) -> None:
    image = normalised(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    says = agreement(likenesses_of(image), torch.full((1, 1, SIDE, SIDE), logit))
    assert says.abs().max() < 0.5


def test_gains_say_how_much_each_counts() -> None:
    image = normalised(torch.rand(2, 3, 64, 96))
    logits = torch.randn(2, 1, 64, 96)
    evidence = ColourEvidence()
    likenesses = likenesses_of(image)
    with torch.no_grad():
        evidence.gain.zero_()
        assert evidence(image, logits).equal(logits)
        evidence.gain[0] = 0.5
        with_border = logits + 0.5 * against_border(likenesses, logits)
        torch.testing.assert_close(evidence(image, logits), with_border)
        evidence.gain[1] = 2
        both = with_border + 2 * agreement(likenesses, with_border)
        torch.testing.assert_close(evidence(image, logits), both)


def test_a_mirrored_or_turned_picture_gives_a_mirrored_or_turned_answer() -> None:
    image = normalised(torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    logits = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    evidence = ColourEvidence()
    with torch.no_grad():
        says = evidence(image, logits)
        mirrored = evidence(image.flip(3), logits.flip(3))
        turned = evidence(image.mT, logits.mT)
    torch.testing.assert_close(mirrored, says.flip(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(turned, says.mT, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(32, 32), (64, 160), (192, 192)])
def test_it_has_the_size_of_the_image_and_no_infinite_values(size: tuple[int, int]) -> None:
    with torch.no_grad():
        says = ColourEvidence()(normalised(torch.rand(2, 3, *size)), torch.randn(2, 1, *size))
    assert says.shape == (2, 1, *size)
    assert says.isfinite().all()


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    images, logits = normalised(torch.rand(3, 3, 64, 64)), torch.randn(3, 1, 64, 64)
    evidence = ColourEvidence()
    with torch.no_grad():
        alone = torch.cat([evidence(images[i : i + 1], logits[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(evidence(images, logits), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_computed_in_full_precision_whatever_the_network_uses(dtype: torch.dtype) -> None:
    image = normalised(torch.rand(1, 3, SIDE, SIDE)).to(dtype)
    logits = torch.randn(1, 1, SIDE, SIDE).to(dtype)
    exact = agreement(likenesses_of(image.float()), logits.float())
    with torch.autocast("cpu", torch.bfloat16):
        says = agreement(likenesses_of(image), logits)
    assert says.dtype == dtype
    torch.testing.assert_close(says, exact.to(dtype), atol=0, rtol=0)


def test_its_colours_are_those_of_cielab() -> None:
    rgb = np.random.default_rng(0).random((8, 8, 3), np.float32)
    ours = to_lab(normalised(torch.from_numpy(rgb).permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
    np.testing.assert_allclose(ours, cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), atol=0.5)
