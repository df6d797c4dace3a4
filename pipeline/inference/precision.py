"""The number format of a network, and which devices have it.

Weights are cast as a whole; autocast would cost Swin about half its speed. Sampling positions,
normalization and the last sigmoid are float32 in every precision.
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
"""Compute capability from which float16 is many times as fast as float32."""
AMPERE = (8, 0)
"""Compute capability from which TensorFloat-32 and bfloat16 are."""


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision itself, or for `auto` the one that suits the device.

    Raises:
        UsageError: the device does not have it.

    """
    if device.type != "cuda":
        if precision is Precision.TF32:
            raise UsageError("precision not available on a CPU: tf32: choose float32")
        return Precision.FLOAT32 if precision is Precision.AUTO else precision
    capability = torch.cuda.get_device_capability(device)
    if precision is Precision.AUTO:
        # Released weights are float16 or are used so, and it is eight times as exact as bfloat16.
        return Precision.FLOAT16 if capability >= TENSOR_CORES else Precision.FLOAT32
    if precision in (Precision.TF32, Precision.BFLOAT16) and capability < AMPERE:
        raise UsageError(
            f"precision not available on this GPU: {precision}: choose float16 or float32"
        )
    return precision


def cast_network(network: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Put the network on the device, and set how torch multiplies float32 in this process."""
    multiply = "tf32" if precision is Precision.TF32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = multiply
    torch.backends.cudnn.fp32_precision = multiply
    return network.to(device, DTYPES[precision])
