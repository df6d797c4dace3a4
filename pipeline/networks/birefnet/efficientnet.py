"""EfficientNet-Lite (Tan and Le 2019, EfficientNet; Google's release of 2020) as a backbone.

Module names, padding and norms are those of the checkpoints converted from TensorFlow, so that
features learned on ImageNet load unchanged: convolutions with a stride are padded at the end first,
and activations are capped at 6.
"""

from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.config import EfficientNetConfig

EXPANSION = 6  # of every block after the first stage
KERNELS = (3, 3, 5, 3, 5, 5, 3)  # of the stages
STRIDES = (1, 2, 2, 2, 1, 2, 1)
OUTPUT_STAGES = (1, 2, 4, 6)  # the last stages at strides 4, 8, 16 and 32

make_batch_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class EfficientNet(nn.Module):
    """Image [B, 3, H, W] to four maps [B, stages[i], H / (4 * 2^i), W / (4 * 2^i)]."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.depths = config.depths
        self._conv_stem = SameConv(3, config.stem, 3, stride=2)
        self._bn0 = make_batch_norm(config.stem)
        widths = pairwise((config.stem, *config.widths))
        self._blocks = nn.ModuleList(
            MBConvBlock(
                outputs if i else inputs,
                outputs,
                KERNELS[stage],
                expand=EXPANSION if stage else 1,
                stride=1 if i else STRIDES[stage],
            )
            for stage, (inputs, outputs) in enumerate(widths)
            for i in range(config.depths[stage])
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(image)), inplace=True)
        maps, blocks = [], iter(self._blocks)
        for depth in self.depths:
            for _ in range(depth):
                x = next(blocks)(x)
            maps.append(x)
        return [maps[stage] for stage in OUTPUT_STAGES]


class SameConv(nn.Conv2d):
    """A convolution padded as by TensorFlow: for a stride of 2, mostly at the end."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = 0 if stride > 1 else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size[0]) if self.stride[0] > 1 else x)


class MBConvBlock(nn.Module):
    """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]: expand, filter, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, expand: int, stride: int) -> None:
        super().__init__()
        wide = expand * inputs
        self.expands, self.adds = expand > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, wide, 1, bias=False)
            self._bn0 = make_batch_norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride=stride, groups=wide)
        self._bn1 = make_batch_norm(wide)
        self._project_conv = nn.Conv2d(wide, outputs, 1, bias=False)
        self._bn2 = make_batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        wide = x
        if self.expands:
            wide = F.relu6(self._bn0(self._expand_conv(x)), inplace=True)
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)), inplace=True)
        out: Tensor = self._bn2(self._project_conv(wide))
        return out + x if self.adds else out


def pad_same(x: Tensor, kernel: int) -> Tensor:
    """Pad with zeros as TensorFlow's SAME does for a stride of 2."""
    height, width = (kernel - 2 + side % 2 for side in x.shape[2:])
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
