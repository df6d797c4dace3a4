from __future__ import annotations

from itertools import product
from math import floor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bgpipe.pipeline.networks.birefnet.deform_conv import (
    CPU_VALUES,
    DeformableConv,
    deform_conv2d,
    sum_gathered,
    sum_in_bags,
)

SIZES = [(1, 5, 4), (3, 4, 6), (5, 3, 3)]


def by_definition(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """The sum over taps of the paper's eq. 1, one output value at a time."""
    batch, _, height, width = x.shape
    outputs, channels, kernel, _ = weight.shape
    out = x.new_zeros(batch, outputs, height, width)
    for b, py, px in product(range(batch), range(height), range(width)):
        for i, j in product(range(kernel), range(kernel)):
            tap = i * kernel + j
            y = py - kernel // 2 + i + offset[b, 2 * tap, py, px].item()
            at = px - kernel // 2 + j + offset[b, 2 * tap + 1, py, px].item()
            for c in range(channels):
                value = mask[b, tap, py, px] * between_pixels(x[b, c], y, at)
                out[b, :, py, px] += weight[:, c, i, j] * value
    return out


def between_pixels(plane: Tensor, y: float, x: float) -> Tensor:
    """Bilinear; a corner outside the plane counts as 0."""
    total = plane.new_zeros(())
    for cy, cx in product((floor(y), floor(y) + 1), (floor(x), floor(x) + 1)):
        if 0 <= cy < plane.shape[0] and 0 <= cx < plane.shape[1]:
            total += (1 - abs(y - cy)) * (1 - abs(x - cx)) * plane[cy, cx]
    return total


def arguments(kernel: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offsets of up to several maps' width, so that many taps leave the image."""
    random = torch.Generator().manual_seed(kernel)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    taps = kernel * kernel
    offset = 2.5 * normal(2, 2 * taps, height, width)
    return (
        normal(2, 3, height, width),
        offset,
        normal(2, taps, height, width),
        normal(4, 3, kernel, kernel),
    )


@pytest.mark.parametrize(("kernel", "height", "width"), SIZES)
def test_it_is_the_sum_over_displaced_taps(kernel: int, height: int, width: int) -> None:
    given = arguments(kernel, height, width)
    torch.testing.assert_close(deform_conv2d(*given), by_definition(*given))


@pytest.mark.parametrize("place", [-1.5, -1.0, -0.75, -0.5, 0.0, 0.25, 1.5, 2.0, 2.25, 3.0, 3.5])
def test_a_sample_at_the_border_weighs_only_the_corners_inside(place: float) -> None:
    x = torch.tensor([[[[3.0, 5.0, 7.0]]]], dtype=torch.float64)
    offset = torch.zeros(1, 2, 1, 3, dtype=torch.float64)
    offset[0, 1] = place - torch.arange(3)
    one = torch.ones(1, 1, 1, 3, dtype=torch.float64)
    sampled = deform_conv2d(x, offset, one, torch.ones(1, 1, 1, 1, dtype=torch.float64))
    assert sampled[0, 0, 0].tolist() == pytest.approx(
        [between_pixels(x[0, 0], 0, place).item()] * 3
    )


def test_a_map_of_several_chunks_agrees_with_grid_sample() -> None:
    height, width, channels = 160, 96, 16
    assert height * width * 9 * channels > CPU_VALUES
    x = torch.randn(1, channels, height, width)
    offset = 3 * torch.randn(1, 18, height, width)
    mask = torch.rand(1, 9, height, width)
    weight = torch.randn(8, channels, 3, 3) / 12
    expected = by_grid_sample(x, offset, mask, weight)
    torch.testing.assert_close(deform_conv2d(x, offset, mask, weight), expected, atol=1e-3, rtol=0)


def by_grid_sample(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    height, width = x.shape[2:]
    line, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    out = x.new_zeros(1, len(weight), height, width)
    for tap, (i, j) in enumerate(product(range(3), range(3))):
        y = line + i - 1 + offset[:, 2 * tap]
        at = column + j - 1 + offset[:, 2 * tap + 1]
        grid = torch.stack((2 * at / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
        sampled = F.grid_sample(x, grid, padding_mode="zeros", align_corners=True)
        out += F.conv2d(sampled * mask[:, tap], weight[:, :, i, j, None, None])
    return out


def test_gradients_of_values_offsets_masks_and_weights_are_exact() -> None:
    given = [tensor.requires_grad_() for tensor in arguments(3, 4, 4)]
    assert torch.autograd.gradcheck(deform_conv2d, given, eps=1e-7)


def test_both_ways_to_sum_agree_in_value_and_gradient() -> None:
    rows = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 4, dtype=torch.float64, requires_grad=True)
    pixel = torch.randint(0, 20, (50, 4))
    results = []
    for add in (sum_in_bags, sum_gathered):
        out = add(rows, pixel, weight)
        results.append((out, *torch.autograd.grad(out.square().sum(), (rows, weight))))
    torch.testing.assert_close(*results)


def test_coordinates_stay_exact_in_half_precision() -> None:
    """Beyond 2048, neighbouring float16 numbers are two pixels apart."""
    width = 2500
    x = torch.arange(width, dtype=torch.float32).view(1, 1, 1, width) / width
    offset = torch.zeros(1, 2, 1, width)
    offset[:, 1] = 0.5
    one = torch.ones(1, 1, 1, width)
    exact = deform_conv2d(x, offset, one, torch.ones(1, 1, 1, 1))
    half = deform_conv2d(
        *(tensor.bfloat16() for tensor in (x, offset, one, torch.ones(1, 1, 1, 1)))
    )
    torch.testing.assert_close(half.float(), exact, atol=2**-7, rtol=0)


def test_offsets_that_are_no_numbers_give_no_number_and_stay_in_memory() -> None:
    offset = torch.full((1, 2, 2, 2), torch.nan)
    offset[..., 1] = 1e30
    sampled = deform_conv2d(
        torch.ones(1, 1, 2, 2), offset, torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)
    )
    assert sampled[..., 0].isnan().all()
    assert sampled[..., 1].eq(0).all()


def test_it_starts_as_a_plain_convolution() -> None:
    layer = DeformableConv(3, 5, 3)
    x = torch.randn(2, 3, 6, 5)
    torch.testing.assert_close(layer(x), layer.regular_conv(x), atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_gives_what_the_cpu_gives(dtype: torch.dtype) -> None:
    given = [tensor.to(dtype) for tensor in arguments(3, 9, 7)]
    on_gpu = deform_conv2d(*(tensor.cuda() for tensor in given)).float().cpu()
    expected = deform_conv2d(*(tensor.float() for tensor in given))
    torch.testing.assert_close(
        on_gpu, expected, atol=2e-5 if dtype is torch.float32 else 0.2, rtol=0
    )
