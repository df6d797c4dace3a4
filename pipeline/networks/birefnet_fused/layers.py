"""Submodules by name, with the type that they are known to have.

Batch norms as part of the convolutions before them. Weights are folded in float32, once.

A matrix product with its bias and activation, in the fastest form that torch has for it.

On a CPU, torch hands float32 products to MKL, which makes half of the arithmetic of processors that
are not Intel's; oneDNN, which it uses for convolutions, makes all of it anywhere.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Submodule = TypeVar("Submodule", bound=nn.Module)


def submodule(whole: nn.Module, name: str, kind: type[Submodule]) -> Submodule:
    """The submodule of this name, which is known to be of this kind."""
    found = whole.get_submodule(name)
    if not isinstance(found, kind):
        raise TypeError(f"not a {kind.__name__}: {name} is a {type(found).__name__}")
    return found


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


Activation = Literal["none", "relu", "gelu"]


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
            # Without a public name: torch.compile makes it of linear layers. "none" is exact gelu.
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, self.activation, [], "none"
            )
            return out
        out = F.linear(x, self.weight, self.bias)
        if self.activation == "gelu":
            return F.gelu(out)
        return F.relu_(out) if self.activation == "relu" else out


def make_dense(layer: nn.Linear, activation: Activation = "none") -> DenseLayer:
    """The layer itself, on the same memory."""
    return DenseLayer(
        layer.weight.data, None if layer.bias is None else layer.bias.data, activation
    )


def has_onednn() -> bool:
    """Whether oneDNN's linear layer can be called; in code to be compiled, only torch itself may."""
    return not torch.compiler.is_compiling() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
