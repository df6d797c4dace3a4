"""What a pass of the network asks of a GPU, counted on tensors without data (the meta device).

Operations are those that launch work; views are free. Traffic is what they read and write, each once.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bgpipe.pipeline.networks.birefnet import create
from bgpipe.pipeline.networks.birefnet.fused import fuse, move
from bgpipe.pipeline.networks.birefnet.kernels import ModuleWithKernel

BATCH = 8
SIDE = 1024
GATHERS = {"aten::index.Tensor", "aten::index_select", "bgpipe::sample_points"}
"""Read their first input from memory at most once: neighbors sample the same rows."""
ALLOCATIONS = {"aten::new_empty", "aten::empty_like", "aten::promote_types"}
DETERMINISTIC = GATHERS | {
    "aten::_addmm_activation",
    "aten::add.Tensor",
    "aten::addcmul",
    "aten::arange",
    "aten::arange.start",
    "aten::arange.start_step",
    "aten::cat",
    "aten::clamp",
    "aten::contiguous",
    "aten::conv2d",
    "aten::copy_",
    "aten::flatten.using_ints",
    "aten::floor",
    "aten::floor_divide",
    "aten::gelu",
    "aten::index_put_",
    "aten::layer_norm",
    "aten::linear",
    "aten::mean.dim",
    "aten::mul.Tensor",
    "aten::pad",
    "aten::relu_",
    "aten::remainder.Scalar",
    "aten::reshape",
    "aten::scaled_dot_product_attention",
    "aten::sigmoid",
    "aten::stack",
    "aten::sub.Tensor",
    "aten::to.dtype",
    "aten::upsample_bilinear2d.vec",
    "bgpipe::linear_gelu",
    "bgpipe::window_attention",
}
"""Operations whose shapes depend on shapes alone, so that the host never waits for the device, a CUDA
graph can hold them, and the same input gives the same bits. Not among them: nonzero, item."""


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, out = function.name(), function(*args, **(kwargs or {}))
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        outputs = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        if name == "aten::scaled_dot_product_attention":
            out = torch.empty_like(args[0].transpose(1, 2)).transpose(1, 2)  # as fused attention
        if name in ALLOCATIONS or {storage(each) for each in outputs} <= self._views(name, inputs):
            return out
        self.operations[name] += 1
        self.bytes[name] += traffic(name, inputs, outputs)
        return out

    @staticmethod
    def _views(name: str, inputs: list[Tensor]) -> set[int]:
        """The memory of which an output is a view, and not written."""
        writes = name.split(".")[0].endswith("_")
        return set() if writes else {storage(each) for each in inputs}


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def traffic(name: str, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    written = sum(each.nbytes for each in outputs)
    if name == "aten::index_put_":
        target, index = inputs[:2]
        return index.nbytes + index.numel() * target.shape[1] * target.itemsize
    if name in GATHERS:
        return written + min(written, inputs[0].nbytes) + sum(each.nbytes for each in inputs[1:])
    return written + sum(min(each.nbytes, each.untyped_storage().nbytes()) for each in inputs)


def count(name: str, *, kernels: bool) -> Count:
    with torch.device("meta"):
        network = create(name)
    network.to_empty(device="cpu")  # weights of any value
    for buffer in network.buffers():
        buffer.zero_()
    fused = fuse(network, (SIDE, SIDE))
    move(fused, torch.device("meta"), torch.float16)
    for module in fused.modules():
        if isinstance(module, ModuleWithKernel):
            module.kernel = kernels
    image = torch.empty(BATCH, 3, SIDE, SIDE, dtype=torch.float16, device="meta")
    with torch.inference_mode(), Count() as counted:
        assert fused(image)[0].shape == (BATCH, 1, SIDE, SIDE)
    return counted


@pytest.mark.parametrize(
    ("name", "kernels", "operations", "gigabytes"),
    [
        ("swin_v1_l", True, 900, 12),
        ("swin_v1_l", False, 2200, 29),
        ("swin_v1_t", True, 900, 6),
    ],
)
def test_a_pass_stays_within_its_budget(
    name: str, kernels: bool, operations: int, gigabytes: float
) -> None:
    counted = count(name, kernels=kernels)
    total = sum(counted.bytes.values()) / BATCH / 1e9
    print(name, sum(counted.operations.values()), "operations,", f"{total:.2f} GB an image")
    for operation, size in counted.bytes.most_common():
        print(f"{operation:40}{counted.operations[operation]:6}{size / BATCH / 1e9:8.2f}")
    assert sum(counted.operations.values()) <= operations
    assert total <= gigabytes
    assert counted.operations.keys() <= DETERMINISTIC
