"""Layers of the fused networks: folded batch norms, matrix products with their activation.

On a CPU, torch hands float32 products to MKL, which reaches half of the arithmetic of processors
that are not Intel's; oneDNN, which it uses for convolutions, reaches all of it on any.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Submodule = TypeVar("Submodule", bound=nn.Module)
Activation = Literal["none", "relu", "gelu"]


def submodule(module: nn.Module, name: str, kind: type[Submodule]) -> Submodule:
    """Return the submodule of this name, checked to be of this kind."""
    child = module.get_submodule(name)
    if not isinstance(child, kind):
        raise TypeError(f"not a {kind.__name__}: {name} is a {type(child).__name__}")
    return child


def fold_batch_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a convolution that equals `norm` after `conv` in eval mode."""
    weight, bias = merge_norm(conv.weight, conv.bias, norm)
    with torch.device("meta"):
        folded = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]  # a pair, contrary to its annotation
            conv.stride[0],
            conv.padding,  # type: ignore[arg-type]
            groups=conv.groups,
        )
    folded.weight = nn.Parameter(weight, requires_grad=False)
    folded.bias = nn.Parameter(bias, requires_grad=False)
    return folded


def merge_norm(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution that has `norm` behind it in eval mode.

    torch.nn.utils.fuse_conv_bn_weights does the same, with other last bits in every weight.
    """
    deviation = (norm.get_buffer("running_var") + norm.eps).sqrt()
    scale = norm.get_parameter("weight") / deviation
    shift = norm.get_parameter("bias") - scale * norm.get_buffer("running_mean")
    return weight * scale.view(-1, 1, 1, 1), shift if bias is None else shift + scale * bias


def make_convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return the convolution with these weights that keeps a map's size."""
    outputs, inputs, kernel, _ = weight.shape
    has_bias = bias is not None
    with torch.device("meta"):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=has_bias)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv


class DenseLayer(nn.Module):
    """[..., inputs] to [..., outputs]; weight [outputs, inputs], bias [outputs]."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, activation: Activation = "none"
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32 and has_onednn():
            # No public name: torch.compile emits it for linear layers. "none" is exact gelu.
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, self.activation, [], "none"
            )
            return out
        out = F.linear(x, self.weight, self.bias)
        if self.activation == "gelu":
            return F.gelu(out)
        return F.relu_(out) if self.activation == "relu" else out


def make_dense(layer: nn.Linear, activation: Activation = "none") -> DenseLayer:
    """Return the layer with an activation, on the same memory."""
    bias = None if layer.bias is None else layer.bias.data
    return DenseLayer(layer.weight.data, bias, activation)


def has_onednn() -> bool:
    """Whether oneDNN's linear layer can be called, which code under torch.compile cannot do."""
    return not torch.compiler.is_compiling() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
