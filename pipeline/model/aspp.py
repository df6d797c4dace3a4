"""Atrous spatial pyramid pooling, as a rule with deformable kernels: BiRefNet's reconstruction module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.model.config import ModelConfig
from bgpipe.pipeline.model.deform import DeformableConv


class PlainConvolution(nn.Module):
    """In the place of a deformable convolution: one that looks where it stands."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.regular_conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.regular_conv(x)
        return out


class ASPPBranch(nn.Module):
    def __init__(self, config: ModelConfig, kernel: int) -> None:
        super().__init__()
        conv = DeformableConv if config.deformable else PlainConvolution
        self.atrous_conv = conv(config.inner, config.branch, kernel)
        self.bn = nn.BatchNorm2d(config.branch)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class ASPP(nn.Module):
    """[B, inner, H, W] to the same shape: branches of several reaches and a global one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner, branch = config.inner, config.branch
        self.aspp1 = ASPPBranch(config, 1)
        self.aspp_deforms = nn.ModuleList(ASPPBranch(config, kernel) for kernel in config.kernels)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inner, branch, 1, bias=False),
            nn.BatchNorm2d(branch),
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d((2 + len(config.kernels)) * branch, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)

    def forward(self, x: Tensor) -> Tensor:
        local = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms)]
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[2:])
        return F.relu(self.bn1(self.conv1(torch.cat([*local, pooled], dim=1))))
