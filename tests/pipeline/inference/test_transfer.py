"""The order of a GPU's copies and waits, on streams that only record."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bgpipe.pipeline.inference import transfer
from bgpipe.pipeline.inference.transfer import CudaTransfer

SIZE = (2, 3)
BATCH = 2
LAUNCH = [
    "inward synchronizes",
    "outward synchronizes",
    *["compute fills a row"] * BATCH,
    "inward copies pixels",
    "compute waits for inward",
    "compute runs the step",
    "compute copies an output",
    "outward waits for compute",
    "outward copies an output",
]


class Device(TorchDispatchMode):
    """Records waits, and each copy with its stream; outward copies happen as late as they may."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.compute = Stream("compute", self)
        self.current = self.compute
        self.unused = [Stream("outward", self), Stream("inward", self)]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        is_copy = function is torch.ops.aten.copy_.default
        if is_copy and self.current.name == "outward":
            self.record("copies an output")
            self.current.late.append(args)
            return args[0]
        out = function(*args, **(kwargs or {}))
        if is_copy:
            is_row = out.dtype is torch.uint8 and out.dim() == 3
            kind = "pixels" if out.dtype is torch.uint8 else "an output"
            self.record("fills a row" if is_row else f"copies {kind}")
        return out

    def record(self, event: str) -> None:
        self.events.append(f"{self.current.name} {event}")

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


class Stream:
    def __init__(self, name: str, device: Device) -> None:
        self.name, self.device = name, device
        self.late: list[tuple[Tensor, Tensor]] = []

    def wait_stream(self, other: Stream) -> None:
        self.device.events.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.device.events.append(f"{self.name} synchronizes")
        with torch._C._DisableTorchDispatch():
            for target, source, *_ in self.late:
                target.copy_(source)
        self.late.clear()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    device = Device()
    monkeypatch.setattr(transfer, "_new_stream", lambda _: device.unused.pop())
    monkeypatch.setattr(
        transfer, "_page_locked", lambda shape, kind: torch.zeros(shape, dtype=kind)
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: device.compute)
    monkeypatch.setattr(torch.cuda, "stream", device.on)
    with device:
        yield device


def image(value: int) -> np.ndarray:
    return np.full((*SIZE, 3), value, np.uint8)


def test_each_copy_waits_for_what_it_reads_and_the_host_for_the_last(device: Device) -> None:
    def step(pixels: Tensor) -> tuple[Tensor]:
        device.record("runs the step")
        return (pixels[..., 0] / 2,)

    copies = CudaTransfer(BATCH, SIZE, torch.device("cpu"))
    for values in ((4, 6), (8, 10)):
        device.events.clear()
        copies.launch([image(value) for value in values], step)
        assert device.events == LAUNCH
        (out,) = copies.outputs()
        assert device.events[len(LAUNCH) :] == ["outward synchronizes"]
        assert [row[0, 0].item() for row in out] == [value / 2 for value in values]


def test_outputs_stay_as_they_are_when_the_next_pass_overwrites_the_steps(device: Device) -> None:
    graph_output = torch.zeros(BATCH, *SIZE)

    def step(pixels: Tensor) -> tuple[Tensor]:
        return (graph_output.copy_(pixels[..., 0]),)

    device.unused += [Stream("outward", device), Stream("inward", device)]
    first, second = (CudaTransfer(BATCH, SIZE, torch.device("cpu")) for _ in range(2))
    first.launch([image(1), image(2)], step)
    second.launch([image(3), image(4)], step)
    values = [row[0, 0].item() for each in (first, second) for row in each.outputs()[0]]
    assert values == [1, 2, 3, 4]


def test_after_a_step_that_raises_midway_no_pixels_change_under_a_running_copy(
    device: Device,
) -> None:
    def broken(pixels: Tensor) -> tuple[Tensor]:
        device.record("runs the step")
        raise ArithmeticError

    copies = CudaTransfer(BATCH, SIZE, torch.device("cpu"))
    with pytest.raises(ArithmeticError):
        copies.launch([image(1), image(2)], broken)
    device.events.clear()
    copies.launch([image(3), image(4)], lambda pixels: (pixels[..., 0].float(),))
    assert device.events[:3] == LAUNCH[:3]
    assert [row[0, 0].item() for row in copies.outputs()[0]] == [3, 4]
