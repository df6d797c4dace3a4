"""EfficientNet-Lite: the released checkpoints' names and TensorFlow's padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bgpipe.pipeline.networks.birefnet import CONFIGS, EfficientNetConfig
from bgpipe.pipeline.networks.birefnet.efficientnet import EfficientNet, SameConv

LITE0 = CONFIGS["birefnet_nano"].backbone


@pytest.fixture(scope="module")
def lite0() -> EfficientNet:
    assert isinstance(LITE0, EfficientNetConfig)
    torch.manual_seed(0)
    return EfficientNet(LITE0).eval()


def test_tensors_have_the_names_and_shapes_of_the_released_checkpoint(lite0: EfficientNet) -> None:
    state = lite0.state_dict()
    shapes = {
        "_conv_stem.weight": (32, 3, 3, 3),
        "_bn0.running_mean": (32,),
        "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
        "_blocks.1._expand_conv.weight": (96, 16, 1, 1),
        "_blocks.4._depthwise_conv.weight": (240, 1, 5, 5),
        "_blocks.15._project_conv.weight": (320, 1152, 1, 1),
        "_blocks.15._bn2.bias": (320,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "_blocks.0._expand_conv.weight" not in state
    assert sum(parameter.numel() for parameter in lite0.parameters()) == 2_958_848


def test_maps_are_a_quarter_to_a_thirty_second_of_the_image(lite0: EfficientNet) -> None:
    with torch.inference_mode():
        maps = lite0(torch.zeros(2, 3, 96, 64))
    assert [tuple(x.shape) for x in maps] == [
        (2, 24, 24, 16), (2, 40, 12, 8), (2, 112, 6, 4), (2, 320, 3, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "side", "before", "behind"),
    [(3, 8, 0, 1), (5, 8, 1, 2), (3, 7, 1, 1), (5, 7, 2, 2), (5, 1, 2, 2)],
)
def test_a_stride_of_two_is_padded_as_tensorflow_pads_it(
    kernel: int, side: int, before: int, behind: int
) -> None:
    conv = SameConv(2, 3, kernel, stride=2)
    image = torch.randn(1, 2, side, 8)
    tall = torch.cat([torch.zeros(1, 2, before, 8), image, torch.zeros(1, 2, behind, 8)], dim=2)
    beside = (kernel - 2) // 2
    left, right = (torch.zeros(1, 2, tall.shape[2], n) for n in (beside, kernel - 2 - beside))
    expected = F.conv2d(torch.cat([left, tall, right], dim=3), conv.weight, stride=2)
    assert expected.shape == (1, 3, (side + 1) // 2, 4)
    torch.testing.assert_close(conv(image), expected)


def test_activations_end_at_six(lite0: EfficientNet) -> None:
    seen: list[float] = []
    hook = lite0.get_submodule("_blocks.0").register_forward_pre_hook(
        lambda _module, inputs: seen.append(inputs[0].max().item())
    )
    with torch.inference_mode():
        lite0(1e4 * torch.randn(1, 3, 64, 64))
    hook.remove()
    assert seen == [6.0]


def test_norms_have_the_constants_of_tensorflow(lite0: EfficientNet) -> None:
    norms = [module for module in lite0.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
