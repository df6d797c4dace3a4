"""Which layers run by kernels: those whose kernel is equal and not slower."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bgpipe.pipeline.inference import kernel_choice
from bgpipe.pipeline.inference.kernel_choice import MARGIN, choose_kernels
from bgpipe.pipeline.networks.birefnet.kernels import ModuleWithKernel

pytest.importorskip("triton", reason="Triton is for Linux")


class Double(ModuleWithKernel):
    """Its kernel takes `seconds` instead of 1, and is off by `error`."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 2.0))
        self.seconds, self.error = 0.5, 0.0
        self.raises: Exception | None = None
        self.runs: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(self.kernel)
        if self.kernel and self.raises:
            raise self.raises
        return x[..., : len(self.scale)] * self.scale + (self.error if self.kernel else 0)


class Triple(Double):
    """A layer of another kind."""


def clock(layer: Double) -> Callable[[], float]:
    """The seconds that the runs so far have taken."""
    return lambda: sum(layer.seconds if by_kernel else 1 for by_kernel in layer.runs)


def choose(layer: Double) -> bool:
    x = torch.arange(8.0).half()
    choose_kernels(layer, lambda: layer(x), clock(layer))
    return layer.kernel


def test_a_kernel_that_is_equal_and_faster_is_used() -> None:
    assert choose(Double())


@pytest.mark.parametrize(("seconds", "used"), [(MARGIN - 0.01, True), (MARGIN + 0.01, False)])
def test_a_kernel_may_be_a_little_slower_so_that_noise_decides_nothing(
    seconds: float, used: bool
) -> None:
    layer = Double()
    layer.seconds = seconds
    assert choose(layer) is used


@pytest.mark.parametrize("error", [0.5, torch.nan, torch.inf])
def test_a_kernel_that_differs_is_not_used(error: float, caplog: pytest.LogCaptureFixture) -> None:
    layer = Double()
    layer.error = error
    assert not choose(layer)
    assert "Triton kernel differs" in caplog.text


def test_a_kernel_whose_bits_change_between_runs_is_not_used() -> None:
    class Unsteady(Double):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1e-6 * len(self.runs) * self.kernel

    assert not choose(Unsteady())


@pytest.mark.parametrize("error", [RuntimeError("no C compiler"), FileNotFoundError("ptxas")])
def test_a_kernel_that_does_not_compile_is_not_used(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    layer = Double()
    layer.raises = error
    assert not choose(layer)
    assert "Triton kernel does not run" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("gone")])
def test_a_full_or_lost_device_is_no_fault_of_the_kernel(error: RuntimeError) -> None:
    layer = Double()
    layer.raises = error
    with pytest.raises(type(error)):
        choose(layer)


def test_the_largest_layer_decides_for_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    network = nn.Sequential(Double(4), Double(3), Double(2), Triple(2))
    layers: list[Double] = list(network)  # type: ignore[arg-type]
    layers[1].error = layers[2].error = 1.0
    layers[3].seconds = 9.0
    choose_kernels(network, lambda: network(torch.ones(4)), clock(layers[3]))
    assert [layer.kernel for layer in layers] == [True, True, True, False]


def test_without_triton_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel_choice, "find_spec", lambda name: None)
    assert not choose(Double())
