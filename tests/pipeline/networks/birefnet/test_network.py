from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bgpipe.pipeline.networks.birefnet import (
    CONFIGS,
    EfficientNetConfig,
    InvalidSize,
    ModelConfig,
    SwinConfig,
    build,
    create,
)
from bgpipe.pipeline.networks.birefnet.decoder import stack_tiles

TINY = ModelConfig(
    backbone=SwinConfig(embed=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4),
    inner=6,
    branch=8,
    kernels=(3,),
    image_inner=4,
    gate=4,
)


CONVOLUTIONS = replace(
    TINY,
    backbone=EfficientNetConfig(
        widths=(4, 6, 8, 10, 12, 14, 24), depths=(1, 2, 1, 2, 1, 1, 1), stem=8
    ),
    deformable=False,
)
EVERY = pytest.mark.parametrize("config", [TINY, CONVOLUTIONS], ids=["swin", "efficientnet"])


@pytest.mark.parametrize("name", CONFIGS)
def test_named_networks_are_in_eval_mode_with_the_norms_trained_with(name: str) -> None:
    with torch.device("meta"):
        network = create(name)
    norms = [m for m in network.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert not any(module.training for module in network.modules())
    assert {norm.eps for norm in norms} == {1e-5, *([1e-3] * (name == "birefnet_nano"))}
    transformer = isinstance(CONFIGS[name].backbone, SwinConfig)
    assert {type(norm) for norm in norms} == {nn.BatchNorm2d, *([nn.LayerNorm] * transformer)}


def test_the_bundled_network_fits_into_twelve_megabytes_of_half_floats() -> None:
    with torch.device("meta"):
        network = create("birefnet_nano")
    assert 2 * sum(tensor.numel() for tensor in network.state_dict().values()) < 12_000_000


@EVERY
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 32)])
def test_logits_have_the_size_of_the_image(config: ModelConfig, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        assert build(config)(torch.zeros(2, 3, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize("size", [(250, 250), (240, 240), (64, 100), (33, 64)])
def test_a_size_of_no_whole_tiles_is_refused_with_advice(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidSize, match=f"multiples of 32: {size[0]}x{size[1]}: resize"):
        build(TINY)(torch.zeros(1, 3, *size))


@EVERY
def test_an_image_does_not_depend_on_its_neighbours_in_the_batch(config: ModelConfig) -> None:
    network = build(config)
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@EVERY
def test_every_weight_used_at_inference_learns(config: ModelConfig) -> None:
    torch.manual_seed(0)
    network = build(config).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    idle = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is None}
    assert {name[:-2] for name in idle} == {"conv_ms_spvn", "gdt_convs_pred"}


def test_tiles_are_stacked_colour_by_colour_then_row_by_row() -> None:
    image = torch.arange(3 * 4 * 6.0).view(1, 3, 4, 6)
    stacked = stack_tiles(image, 2)
    assert stacked.shape == (1, 12, 2, 3)
    for colour, row, column in ((0, 0, 1), (1, 1, 0), (2, 1, 1)):
        tile = image[:, colour, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert stacked[:, (2 * colour + row) * 2 + column].equal(tile)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="not multiples of heads"):
        ModelConfig(backbone=SwinConfig(embed=8, depths=(1, 1, 1, 1), heads=(3, 3, 3, 3), window=4))
