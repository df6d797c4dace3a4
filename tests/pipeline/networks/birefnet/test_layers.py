from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bgpipe.pipeline.networks.birefnet.layers import Activation, make_dense

BY_NAME = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


@pytest.mark.parametrize("activation", BY_NAME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
def test_it_is_a_linear_layer_and_its_activation(
    activation: Activation, dtype: torch.dtype, biased: bool
) -> None:
    x, weight, bias = torch.randn(2, 37, 24), torch.randn(12, 24), torch.randn(12)
    layer = make_dense(weight, bias if biased else None, activation).to(dtype)
    expected = BY_NAME[activation](F.linear(x, weight, bias if biased else None))
    bound = 1e-5 if dtype == torch.float32 else 0.2
    with torch.inference_mode():
        torch.testing.assert_close(layer(x.to(dtype)).float(), expected, atol=bound, rtol=0)
