"""CUDA graphs: a whole forward pass as one launch, for one shape.

A micro-batch's way to the device and back.

Beside a GPU, page-locked memory and a stream of its own for each direction let the copies run while
the device computes on another micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

Outputs = tuple[Tensor, ...]
WARM_UPS = 3  # libraries choose and allocate in their first calls, which no graph may hold


def capture(
    step: Callable[[Tensor], Outputs], shape: tuple[int, ...], device: torch.device
) -> Callable[[Tensor], Outputs]:
    """The step for uint8 of `shape`; its answers are overwritten by the next call.

    Raises torch.OutOfMemoryError as the step itself would.
    """
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types for it
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            step(pixels)
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = step(pixels)

    def replay(given: Tensor) -> Outputs:
        pixels.copy_(given)
        graph.replay()
        return answers

    return replay


Step = Callable[[Tensor], tuple[Tensor, ...]]
"""From uint8 [B, h, w, 3] on the device to its answers [B, ...] there."""


class Transfer(Protocol):
    def launch(self, images: Sequence[Pixels], step: Step) -> None:
        """Give the device its work; rows without an image hold earlier ones."""

    def outputs(self) -> tuple[Tensor, ...]:
        """Wait for what was launched: on the host, and nobody else's."""


def make_transfer(batch: int, size: tuple[int, int], device: torch.device) -> Transfer:
    """For micro-batches of this shape."""
    return CudaTransfer(batch, size, device) if device.type == "cuda" else HostTransfer(batch, size)


class HostTransfer:
    """The CPU's: nothing to copy but the images side by side."""

    def __init__(self, batch: int, size: tuple[int, int]) -> None:
        self._pixels = torch.zeros((batch, *size, 3), dtype=torch.uint8)
        self._answers: tuple[Tensor, ...] = ()

    def launch(self, images: Sequence[Pixels], step: Step) -> None:
        _fill(self._pixels, images)
        self._answers = step(self._pixels)

    def outputs(self) -> tuple[Tensor, ...]:
        answers, self._answers = self._answers, ()
        return answers


class CudaTransfer:
    """A GPU's. One micro-batch at a time goes through; two of these make a pipeline."""

    def __init__(self, batch: int, size: tuple[int, int], device: torch.device) -> None:
        shape = (batch, *size, 3)
        self._host_pixels = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._inward, self._outward = side_stream(device), side_stream(device)
        self._compute = torch.cuda.current_stream(device)
        self._held: tuple[Tensor, ...] = ()
        self._host_answers: tuple[Tensor, ...] = ()

    def launch(self, images: Sequence[Pixels], step: Step) -> None:
        self._outward.synchronize()  # should nobody have wanted the answers before
        _fill(self._host_pixels, images)
        with torch.cuda.stream(self._inward):
            self._pixels.copy_(self._host_pixels, non_blocking=True)
        self._compute.wait_stream(self._inward)
        self._keep(step(self._pixels))
        self._outward.wait_stream(self._compute)
        with torch.cuda.stream(self._outward):
            for host, held in zip(self._host_answers, self._held, strict=True):
                host.copy_(held, non_blocking=True)

    def outputs(self) -> tuple[Tensor, ...]:
        self._outward.synchronize()
        return tuple(answer.clone() for answer in self._host_answers)

    def _keep(self, answers: tuple[Tensor, ...]) -> None:
        """Copy the answers to memory of our own: the next step writes to where they are."""
        if not self._held:
            self._held = tuple(torch.empty_like(answer) for answer in answers)
            self._host_answers = tuple(
                torch.empty(answer.shape, dtype=answer.dtype, pin_memory=True) for answer in answers
            )
        for held, answer in zip(self._held, answers, strict=True):
            held.copy_(answer)


def side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types for it


def _fill(rows: Tensor, images: Sequence[Pixels]) -> None:
    for row, image in zip(rows, images, strict=False):
        row.copy_(torch.from_numpy(image))
