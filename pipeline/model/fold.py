"""Batch norms as part of the convolutions before them. Weights are folded in float32, once."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution that does what both do in eval mode."""
    weight, bias = merge_norm(conv.weight, conv.bias, norm)
    with torch.device("meta"):
        both = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # a pair, whatever the annotation says
            conv.stride[0],
            conv.padding,  # type: ignore[arg-type]
            groups=conv.groups,
        )
    both.weight = nn.Parameter(weight, requires_grad=False)
    both.bias = nn.Parameter(bias, requires_grad=False)
    return both


def merge_norm(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that has `norm` behind it in eval mode."""
    deviation = (norm.get_buffer("running_var") + norm.eps).sqrt()
    scale = norm.get_parameter("weight") / deviation
    shift = norm.get_parameter("bias") - scale * norm.get_buffer("running_mean")
    return weight * scale.view(-1, 1, 1, 1), shift if bias is None else shift + scale * bias


def make_convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """The convolution with these weights that keeps a map's size."""
    outputs, inputs, kernel, _ = weight.shape
    has_bias = bias is not None
    with torch.device("meta"):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=has_bias)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv
