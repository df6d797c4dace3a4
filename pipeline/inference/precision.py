"""In which numbers a network computes, and on which devices that is possible.

Weights are cast whole; autocast would cost Swin about half its speed. Sampling positions,
normalisation and the last sigmoid are float32 in every precision.
"""

from __future__ import annotations

import torch
from torch import nn

from bgpipe.config.choices import Precision
from bgpipe.pipeline.errors import UsageError

DTYPES = {
    Precision.FLOAT16: torch.float16,
    Precision.BFLOAT16: torch.bfloat16,
    Precision.TF32: torch.float32,
    Precision.FLOAT32: torch.float32,
}
TENSOR_CORES = (7, 0)
"""The compute capability from which float16 is many times as fast as float32."""
AMPERE = (8, 0)
"""The one from which TensorFloat-32 and bfloat16 are."""


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision itself, or for `auto` the one that suits the device.

    Raises:
        UsageError: the device cannot compute so.

    """
    if device.type != "cuda":
        if precision is Precision.TF32:
            raise UsageError("no precision of this device: tf32; it is a mode of CUDA's")
        return Precision.FLOAT32 if precision is Precision.AUTO else precision
    capability = torch.cuda.get_device_capability(device)
    if precision is Precision.AUTO:
        # Released weights are float16 or are used so, and it is eight times as exact as bfloat16.
        return Precision.FLOAT16 if capability >= TENSOR_CORES else Precision.FLOAT32
    if precision in (Precision.TF32, Precision.BFLOAT16) and capability < AMPERE:
        raise UsageError(f"no precision of this device: {precision}; take float16 or float32")
    return precision


def cast_network(network: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Put the network on the device, and tell torch how to multiply float32 there."""
    multiply = "tf32" if precision is Precision.TF32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = multiply
    torch.backends.cudnn.fp32_precision = multiply
    return network.to(device, DTYPES[precision])
