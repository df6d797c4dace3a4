"""Whether a device computes: asked before any image relies on it."""

from __future__ import annotations

import torch

from bgpipe.pipeline.errors import Code, DeviceLost

SIDE = 128
"""Of matrices of -1, 0 and 1, whose product every precision holds exactly."""


def check_device(device: str) -> None:
    """Multiply matrices on `device`, cpu or cuda, in float32 and half precision.

    Raises:
        DeviceLost: it does not answer, or wrongly.

    """
    try:
        right = all(_multiplies(device, dtype) for dtype in (torch.float32, torch.float16))
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        raise DeviceLost(
            Code.DEVICE,
            f"the device does not compute: {device}: {error}: check the driver, and that torch is "
            f"built for the device (torch {torch.__version__}, CUDA {torch.version.cuda})",
        ) from error
    if not right:
        raise DeviceLost(Code.DEVICE, f"the device computes wrongly: {device}: it may be broken")


def _multiplies(device: str, dtype: torch.dtype) -> bool:
    left, right = (
        torch.arange(SIDE * SIDE).mul(factor).remainder(3).sub(1).view(SIDE, SIDE)
        for factor in (5, 7)
    )
    found = left.to(device, dtype) @ right.to(device, dtype)
    return torch.equal(found.cpu().long(), left @ right)
