"""Layers of the networks: matrix products with their activation, and layers of given weights.

On a CPU, torch hands float32 products to MKL, which reaches half of the arithmetic of processors
that are not Intel's; oneDNN, which it uses for convolutions, reaches all of it on any.
"""

from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Submodule = TypeVar("Submodule", bound=nn.Module)
Activation = Literal["none", "relu", "gelu"]


class DenseLayer(nn.Linear):
    """A linear layer and its activation."""

    def __init__(self, inputs: int, outputs: int, activation: Activation = "none") -> None:
        super().__init__(inputs, outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn():
            # No public name: torch.compile emits it for linear layers. "none" is exact gelu.
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, self.activation, [], "none"
            )
            return out
        if self.activation == "relu" and x.device.type != "cpu":
            # No public name either: one product whose last step is the activation.
            rows = torch._addmm_activation(self.bias, x.flatten(0, -2), self.weight.t())
            return rows.view(*x.shape[:-1], -1)
        out = super().forward(x)
        if self.activation == "gelu":
            return F.gelu(out)
        return F.relu_(out) if self.activation == "relu" else out


def make_dense(weight: Tensor, bias: Tensor | None, activation: Activation = "none") -> DenseLayer:
    """Return the layer with weight [outputs, inputs] and bias [outputs], on the same memory."""
    outputs, inputs = weight.shape
    with torch.device("meta"):
        layer = DenseLayer(inputs, outputs, activation)
    set_weights(layer, weight, bias)
    return layer


def make_convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return the convolution with these weights that keeps a map's size."""
    outputs, inputs, kernel, _ = weight.shape
    with torch.device("meta"):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    set_weights(conv, weight, bias)
    return conv


def set_weights(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Replace the weights of a layer, without gradients."""
    layer.weight = nn.Parameter(weight, requires_grad=False)
    parameter = None if bias is None else nn.Parameter(bias, requires_grad=False)
    layer.register_parameter("bias", parameter)


def submodule(module: nn.Module, name: str, kind: type[Submodule]) -> Submodule:
    """Return the submodule of this name, checked to be of this kind."""
    child = module.get_submodule(name)
    if not isinstance(child, kind):
        raise TypeError(f"not a {kind.__name__}: {name} is a {type(child).__name__}")
    return child


def _has_onednn() -> bool:
    """Whether oneDNN's linear layer can be called: it has no gradient, and no form to compile."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
