"""The network that an engine runs gives the logits of the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet import InvalidSize, ModelConfig, SwinConfig, build
from bgpipe.pipeline.networks.birefnet.fused import fuse

from .test_network import CONVOLUTIONS
from .test_network_golden import SHIFTED, SMALLER_THAN_A_WINDOW, image, weights

BOUND = 1e-4
RELEASED = {  # window, heads and kernels of the released networks, narrower
    "large": ModelConfig(
        backbone=SwinConfig(embed=24, depths=(2, 2, 3, 2), heads=(1, 2, 2, 4), window=12)
    ),
    "lite": ModelConfig(
        backbone=SwinConfig(embed=12, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=7)
    ),
}
NETWORKS = RELEASED | {"shifted": SHIFTED, "small": SMALLER_THAN_A_WINDOW}


def plain(config: ModelConfig) -> nn.Module:
    network = build(config)
    network.load_state_dict(weights(network))
    return network


def distance(network: nn.Module, fused: nn.Module, batch: Tensor) -> float:
    with torch.inference_mode():
        return (network(batch) - fused(batch)[0]).abs().max().item()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(160, 96), (32, 64)])
def test_the_logits_are_those_of_the_plain_network(name: str, size: tuple[int, int]) -> None:
    network = plain(NETWORKS[name])
    assert distance(network, fuse(network, size), image(*size)) < BOUND


def test_the_coarse_logits_are_those_of_the_supervised_head() -> None:
    network = plain(SHIFTED)
    coarse = []
    head, block = (
        network.get_submodule(f"decoder.{name}") for name in ("conv_ms_spvn_2", "decoder_block2")
    )
    block.register_forward_hook(lambda _block, _inputs, output: coarse.append(head(output)))
    with torch.inference_mode():
        network(image(160, 96))
        _, logits = fuse(network, (160, 96))(image(160, 96))
    assert logits.shape == (1, 1, 20, 12)
    assert (logits - coarse[0]).abs().max() < BOUND


def test_convolutions_with_their_norms_folded_are_the_same_function() -> None:
    network = plain(CONVOLUTIONS).double()  # of float32, weights made of hashes leave few digits
    assert distance(network, fuse(network, (160, 96)), image(160, 96).double()) < 1e-10


@pytest.mark.parametrize("images", [1, 3])
def test_each_image_of_a_batch_has_its_own_logits(images: int) -> None:
    network = plain(SHIFTED)
    batch = torch.randn(images, 3, 96, 64, generator=torch.Generator().manual_seed(images))
    assert distance(network, fuse(network, (96, 64)), batch) < BOUND


def test_the_plain_network_stays_as_it_was() -> None:
    network = plain(SHIFTED)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fuse(network, (64, 64)).to(torch.bfloat16)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(after[key].equal(value) for key, value in before.items())


@pytest.mark.parametrize("config", [SHIFTED, CONVOLUTIONS], ids=["swin", "efficientnet"])
def test_no_norm_of_a_batch_is_left_to_compute(config: ModelConfig) -> None:
    fused = fuse(plain(config), (64, 64))
    assert not [module for module in fused.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_size_of_no_whole_tiles_is_refused() -> None:
    with pytest.raises(InvalidSize, match="multiples of 32: 64x100: resize"):
        fuse(plain(SHIFTED), (64, 100))
