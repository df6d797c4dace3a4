"""Shared by both engines around a forward pass: shrink the batch to the device's memory, check its output."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from bgpipe.pipeline.errors import Code, DeviceLost, TransientError
from bgpipe.pipeline.types import Matte

log = logging.getLogger(__name__)


class MicroBatch:
    """Number of images in one forward pass, halved whenever the device runs out of memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, infer: Callable[[], list[Matte]]) -> list[Matte]:
        """Return the mattes of `infer`, which reads `size` and is repeated when it was too large.

        Raises:
            TransientError: a single image does not fit in the device's memory.
            DeviceLost: the device fails and will not recover within this process.

        """
        while True:
            try:
                return infer()
            except torch.OutOfMemoryError:
                pass
            except torch.AcceleratorError as error:
                raise DeviceLost(Code.DEVICE, f"device failed: {error}") from error
            self._halve()  # outside the handler, which would keep the tensors alive

    def _halve(self) -> None:
        if self.size == 1:
            raise TransientError(Code.DEVICE, "out of device memory at a single image")
        self.size //= 2
        log.warning("out of device memory", extra={"fields": {"batch": self.size}})


def make_mattes(alphas: Tensor, is_finite: Tensor) -> list[Matte]:
    """Return alphas [N, h, w] of the host as mattes; `is_finite` [N] was judged on the device.

    Raises:
        TransientError: the output of the model contains NaN or infinity.

    """
    if not is_finite.all():
        raise TransientError(Code.DEVICE, "model output contains NaN or infinity")
    return [Matte(alpha.numpy()) for alpha in alphas.float()]
