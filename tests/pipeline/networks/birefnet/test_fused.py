"""The network that an engine runs gives the logits of the plain one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet import (
    InvalidSize,
    ModelConfig,
    SwinConfig,
    build,
    deform_conv,
    swin,
)
from bgpipe.pipeline.networks.birefnet.fused import ALIGNMENT, FusedDeformableBranch, fuse, move
from bgpipe.pipeline.networks.birefnet.kernels import ModuleWithKernel
from bgpipe.pipeline.networks.birefnet.layers import set_weights

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
SHALLOW = ModelConfig(
    backbone=SwinConfig(embed=8, depths=(2, 1, 1, 1), heads=(1, 2, 2, 4), window=3),
    inner=8,
    branch=12,
    kernels=(3,),
    image_inner=4,
    gate=4,
)
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


def test_sampled_as_on_a_gpu_in_many_chunks_the_logits_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused = fuse(plain(SHIFTED), (96, 64))
    batch = image(96, 64).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        expected, _ = fused(batch)
        monkeypatch.setattr(deform_conv, "sum_in_bags", deform_conv.sum_gathered)
        monkeypatch.setattr(deform_conv, "CPU_VALUES", 20_000)
        assert (fused(batch)[0] - expected).abs().max() < BOUND


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_finite_mask_gives_the_bits_of_an_infinite_one(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer, windows = swin.WindowAttention(64, 2, 12, 6), swin.Windows([(30, 24)], 12, 6)(2)
    nn.init.normal_(layer.relative_position_bias_table, std=5)
    layer, x = layer.to(dtype), torch.randn(2, 720, 64).to(dtype)
    with torch.inference_mode():
        finite, bias = layer(x, windows), layer.make_bias()
        monkeypatch.setattr(swin, "APART", -torch.inf)
        assert bias.isfinite().all()
        assert layer.make_bias().isinf().any()
        assert layer(x, windows).equal(finite)


def point_convolutions(network: nn.Module) -> list[nn.Conv2d]:
    branches = (m for m in network.modules() if isinstance(m, FusedDeformableBranch))
    return [branch.points for branch in branches]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sampling_points_are_exact_in_half_precision(dtype: torch.dtype) -> None:
    """Of 9 1/128 pixels, float16 keeps 9 and bfloat16 at most 9; whatever the convolution adds is float32."""
    network = plain(SHIFTED)
    for name, parameter in network.named_parameters():
        if "offset_conv" in name:
            nn.init.constant_(parameter, 9 + 2**-7 if name.endswith("bias") else 0)
    fused = fuse(network, (64, 64))
    convs = point_convolutions(fused)
    points: list[Tensor] = []
    for conv in convs:
        conv.register_forward_hook(lambda _, inputs, out: points.append(out))
    move(fused, torch.device("cpu"), dtype)
    with torch.inference_mode():
        assert fused(image(64, 64).to(dtype))[0].dtype is dtype
    assert len(points) == len(convs)
    for out in points:
        assert out.dtype is torch.float32
        assert (out[:, : 2 * out.shape[1] // 3] == 9 + 2**-7).all()


def test_outputs_that_fill_tensor_cores_change_nothing() -> None:
    fused = fuse(plain(SHIFTED), (64, 64))
    with torch.inference_mode():
        expected, _ = fused(image(64, 64))
        for conv in point_convolutions(fused):
            weight, bias = (
                torch.cat([each, each.new_zeros(-len(each) % ALIGNMENT, *each.shape[1:])])
                for each in conv.parameters()
            )
            set_weights(conv, weight, bias)
        assert (fused(image(64, 64))[0] - expected).abs().max() < BOUND
    move(fused, torch.device("meta"), torch.float16)
    aligned = fuse(plain(SHIFTED), (64, 64))
    move(aligned, torch.device("meta"), torch.float16)
    convs = point_convolutions(aligned)
    assert convs
    assert all(len(conv.weight) % ALIGNMENT == 0 for conv in convs)


@pytest.mark.parametrize("kernels", [False, True])
def test_a_pass_is_one_graph_without_breaks(kernels: bool) -> None:
    fused = fuse(plain(SHALLOW), (64, 64))
    batch = image(64, 64)
    if kernels:  # which only a GPU runs
        move(fused, torch.device("meta"), torch.float16)
        batch = batch.half().to("meta")
        for module in fused.modules():
            if isinstance(module, ModuleWithKernel):
                module.kernel = True
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(fused, fullgraph=True, dynamic=False, backend=backend)
    with torch.inference_mode():
        out, _ = compiled(batch)
        assert out.shape == (1, 1, 64, 64)
        if not kernels:
            assert (out - fused(batch)[0]).abs().max() < BOUND
    assert len(graphs) == 1
    used = {str(node.target) for node in graphs[0].graph.nodes}
    assert any("sample_points" in name for name in used) is kernels


def test_a_size_of_no_whole_tiles_is_refused() -> None:
    with pytest.raises(InvalidSize, match="multiples of 32: 64x100: resize"):
        fuse(plain(SHIFTED), (64, 100))
