"""A matrix product with its bias and activation, in the fastest form that torch has for it.

On a CPU, torch hands float32 products to MKL, which makes half of the arithmetic of processors that
are not Intel's; oneDNN, which it uses for convolutions, makes all of it anywhere.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
