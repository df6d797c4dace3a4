"""A residual network (He et al. 2016) as a backbone: convolutions only, for small networks.

With few photos to learn from it learns sooner than a Swin of its size, and a CPU runs and trains it
faster. Module names of a block are those of the usual implementations; the stem is two convolutions
3x3 instead of one 7x7 and a pooling.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.model.config import ResNetConfig


class ResNet(nn.Module):
    """Image [B, 3, H, W] to four maps [B, stages[i], H / (4 * 2^i), W / (4 * 2^i)]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        widths = (config.stem, config.stages[0])
        self.stem = nn.Sequential(*_stem(3, widths[0]), *_stem(*widths))
        inputs = (config.stages[0], *config.stages)
        self.layers = nn.ModuleList(
            _stage(inputs[i], config.stages[i], config.depths[i], stride=2 if i else 1)
            for i in range(len(config.stages))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps


class Block(nn.Module):
    """[B, inputs, H, W] to [B, outputs, H / stride, W / stride], added to what came in."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


def _stem(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU()


def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(depth - 1)))
