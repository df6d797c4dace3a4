"""A device is asked to compute before it is relied on."""

from __future__ import annotations

import pytest
import torch

from bgpipe.pipeline.errors import DeviceLost
from bgpipe.pipeline.inference.devices import check_device


def test_a_device_that_computes_passes() -> None:
    check_device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_that_computes_passes() -> None:
    check_device("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_does_not_respond_is_reported_with_advice() -> None:
    with pytest.raises(DeviceLost, match="check the driver"):
        check_device("cuda")
