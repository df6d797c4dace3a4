"""Whether a layer runs by its Triton kernel: tried on the device, with the network's own inputs.

A kernel that does not compile, differs from torch's operations, or takes longer is not used. So close a
call that it might fall otherwise on an equal host goes to the kernel (decisions/0031).
"""

import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from subprocess import SubprocessError
from typing import Any

import torch
from torch import Tensor, nn

from bgpipe.pipeline.inference.devices import is_out_of_memory
from bgpipe.pipeline.logging import EventLogger
from bgpipe.pipeline.networks.birefnet.kernels import ModuleWithKernel

ROUNDS = 5
TOLERANCE = 16  # largest difference, in steps of the precision at the largest value
MARGIN = 1.25  # times as long as torch's operations that a kernel may take

log = EventLogger(__name__)

Inputs = tuple[object, ...]
Clock = Callable[[], float]


def choose_kernels(
    network: nn.Module, forward: Callable[[], object], clock: Clock = time.perf_counter
) -> None:
    """Let the layers of `network` run by kernels where these are equal and not slower.

    `forward` runs a pass over some image, in which the largest layer of each kind is compared. Raises
    torch.AcceleratorError if one breaks the device.
    """
    if find_spec("triton") is None:  # it comes with torch's builds for CUDA
        log.info("no Triton kernels: Triton is not installed")
        return
    for kind, (layer, inputs) in find_largest(network, forward).items():
        is_better = _is_better(kind.__name__, layer, inputs, clock)
        for module in network.modules():
            if type(module) is kind:
                module.kernel = is_better


def find_largest(
    network: nn.Module, forward: Callable[[], object]
) -> dict[type[ModuleWithKernel], tuple[ModuleWithKernel, Inputs]]:
    """Return the layer of each kind with the most multiplications, and its inputs in a pass."""
    largest: dict[type[ModuleWithKernel], tuple[int, ModuleWithKernel, Inputs]] = {}

    def compare(layer: nn.Module, inputs: Inputs) -> None:
        x = inputs[0]
        if isinstance(layer, ModuleWithKernel) and isinstance(x, Tensor):
            weights = sum(parameter.numel() for parameter in layer.parameters())
            size = x.numel() * weights
            if size > largest.get(type(layer), (0,))[0]:
                largest[type(layer)] = size, layer, inputs

    layers = [module for module in network.modules() if isinstance(module, ModuleWithKernel)]
    hooks = [layer.register_forward_pre_hook(compare) for layer in layers]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return {kind: (layer, inputs) for kind, (_, layer, inputs) in largest.items()}


def _is_better(name: str, layer: ModuleWithKernel, inputs: Inputs, clock: Clock) -> bool:
    from triton.errors import TritonError

    expected, usual = _run(layer, inputs, clock)
    layer.kernel = True
    try:
        out, seconds = _run(layer, inputs, clock)
        again, _ = _run(layer, inputs, clock)
    except (TritonError, RuntimeError, OSError, SubprocessError) as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        reason = f"{type(error).__name__}: {error}"
        log.warning("Triton kernel does not run", layer=name, error=reason)
        return False
    step = torch.finfo(expected.dtype).eps * expected.abs().max().item()
    difference = (out - expected).abs().max().item()
    fields: dict[str, Any] = {"layer": name, "torch_ms": 1e3 * usual, "kernel_ms": 1e3 * seconds}
    if not (difference <= TOLERANCE * step and torch.equal(out, again)):  # NaN is not equal
        fields |= {"difference": difference, "bound": TOLERANCE * step}
        log.warning("Triton kernel differs", **fields)
        return False
    log.info("Triton kernel compared", **fields)
    return seconds <= MARGIN * usual


def _run(layer: ModuleWithKernel, inputs: Inputs, clock: Clock) -> tuple[Tensor, float]:
    """Return the output and the median seconds of a run; the first run compiles."""
    out: Tensor = layer(*inputs)
    seconds = []
    for _ in range(ROUNDS):
        _wait(out.device)
        start = clock()
        layer(*inputs)
        _wait(out.device)
        seconds.append(clock() - start)
    return out, statistics.median(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
