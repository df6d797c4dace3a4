"""A residual network for inference: batch norms are part of the convolutions before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.model.fold import folded
from bgpipe.pipeline.model.parts import part
from bgpipe.pipeline.model.resnet import Block, ResNet


class FusedResNet(nn.Module):
    """Images [B, 3, H, W] of any sizes to the four maps of each."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.stem = nn.ModuleList(
            folded(
                part(resnet, f"stem.{i}", nn.Conv2d), part(resnet, f"stem.{i + 1}", nn.BatchNorm2d)
            )
            for i in (0, 3)
        )
        stages = [part(resnet, f"layers.{i}", nn.Sequential) for i in range(len(resnet.layers))]
        self.stages = nn.ModuleList(
            nn.Sequential(*(FusedBlock(part(stage, f"{j}", Block)) for j in range(len(stage))))
            for stage in stages
        )

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        return [self._maps(image) for image in images]

    def _maps(self, x: Tensor) -> list[Tensor]:
        for conv in self.stem:
            x = F.relu_(conv(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class FusedBlock(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.conv1 = folded(block.conv1, block.bn1)
        self.conv2 = folded(block.conv2, block.bn2)
        beside = block.downsample
        self.downsample = (
            folded(part(beside, "0", nn.Conv2d), part(beside, "1", nn.BatchNorm2d))
            if len(beside)
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu_(self.conv1(x))
        return F.relu_(self.conv2(inner) + self.downsample(x))
