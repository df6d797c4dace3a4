"""EfficientNet-Lite for inference: batch norms are folded into the convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.efficientnet import (
    OUTPUT_STAGES,
    EfficientNet,
    MBConvBlock,
    SameConv,
    pad_same,
)
from bgpipe.pipeline.networks.birefnet_fused.layers import fold_batch_norm, submodule


class FusedEfficientNet(nn.Module):
    """Images [B, 3, H, W] of any sizes to the four maps of each, as EfficientNet."""

    def __init__(self, network: EfficientNet) -> None:
        super().__init__()
        self.stem = FusedConv(network, "_conv_stem", "_bn0")
        blocks = (submodule(network, f"_blocks.{i}", MBConvBlock) for i in count())
        self.stages = nn.ModuleList(
            nn.Sequential(*(FusedMBConvBlock(next(blocks)) for _ in range(depth)))
            for depth in network.depths
        )

    def forward(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        return [self._encode(image) for image in images]

    def _encode(self, image: Tensor) -> list[Tensor]:
        x = F.relu6(self.stem(image), inplace=True)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[stage] for stage in OUTPUT_STAGES]


class FusedMBConvBlock(nn.Module):
    def __init__(self, block: MBConvBlock) -> None:
        super().__init__()
        self.adds = block.adds
        inner = [("_expand_conv", "_bn0")] * block.expands + [("_depthwise_conv", "_bn1")]
        self.inner = nn.ModuleList(FusedConv(block, *names) for names in inner)
        self.last = FusedConv(block, "_project_conv", "_bn2")

    def forward(self, x: Tensor) -> Tensor:
        wide = x
        for conv in self.inner:
            wide = F.relu6(conv(wide), inplace=True)
        out: Tensor = self.last(wide)
        return out + x if self.adds else out


class FusedConv(nn.Module):
    """A convolution of `module` and the norm behind it."""

    def __init__(self, module: nn.Module, conv: str, norm: str) -> None:
        super().__init__()
        plain = submodule(module, conv, nn.Conv2d)
        self.shrinks = isinstance(plain, SameConv) and plain.stride[0] > 1
        self.conv = fold_batch_norm(plain, submodule(module, norm, nn.BatchNorm2d))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(pad_same(x, self.conv.kernel_size[0]) if self.shrinks else x)
        return out
