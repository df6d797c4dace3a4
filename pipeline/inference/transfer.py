"""The way of a micro-batch to the device, through the network and back.

On a GPU, page-locked memory and a stream for each direction let the copies run while the device
computes another micro-batch, and a CUDA graph launches a whole forward pass at once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bgpipe.pipeline.types import Pixels

Outputs = tuple[Tensor, ...]
"""[B, ...] each."""
Step = Callable[[Tensor], Outputs]
"""A forward pass on the device: uint8 [B, h, w, 3] to its outputs."""

WARM_UPS = 3  # libraries choose and allocate in their first calls, which a graph must not contain


def capture_graph(step: Step, shape: tuple[int, ...], device: torch.device) -> Step:
    """Return the step as a CUDA graph for uint8 of `shape`; each call overwrites its outputs."""
    pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
    stream = _new_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step(pixels)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # lanes are no concern of it
        outputs = step(pixels)

    def replay(new_pixels: Tensor) -> Outputs:
        pixels.copy_(new_pixels)
        graph.replay()
        return outputs

    return replay


class CudaTransfer:
    """Copies micro-batches of `batch` images of `size` (height, width), one at a time.

    Two of them make a pipeline.
    """

    def __init__(self, batch: int, size: tuple[int, int], device: torch.device) -> None:
        shape = (batch, *size, 3)
        self._host_pixels = _page_locked(shape, torch.uint8)
        self._pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._inward, self._outward = _new_stream(device), _new_stream(device)
        self._compute = torch.cuda.current_stream(device)
        self._outputs: Outputs = ()
        self._host_outputs: Outputs = ()

    def launch(self, images: Sequence[Pixels], step: Step) -> None:
        """Start the step on the images; rows of the batch without an image hold earlier ones."""
        for stream in (self._inward, self._outward):  # in case the previous pass failed midway
            stream.synchronize()
        for row, image in zip(self._host_pixels, images, strict=False):
            row.copy_(torch.from_numpy(image))
        with torch.cuda.stream(self._inward):
            self._pixels.copy_(self._host_pixels, non_blocking=True)
        self._compute.wait_stream(self._inward)
        outputs = step(self._pixels)
        if not self._outputs:
            self._outputs = tuple(map(torch.empty_like, outputs))
            self._host_outputs = tuple(_page_locked(each.shape, each.dtype) for each in outputs)
        for stored, output in zip(self._outputs, outputs, strict=True):
            stored.copy_(output)  # the next step may overwrite the output
        self._outward.wait_stream(self._compute)
        with torch.cuda.stream(self._outward):
            for host, stored in zip(self._host_outputs, self._outputs, strict=True):
                host.copy_(stored, non_blocking=True)

    def outputs(self) -> Outputs:
        """Wait for the launched step and return its outputs, which the caller owns, on the host."""
        self._outward.synchronize()
        return tuple(output.clone() for output in self._host_outputs)


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no types for it


def _page_locked(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, pin_memory=True)
