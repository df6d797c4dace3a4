"""Engines: model inputs in, mattes out. Here the main model's, and what every engine shares.

Micro-batches have a fixed shape: an incomplete one is padded, so that the matte of an image depends
neither on its neighbors nor on its position. Only the size of the batch may change the last bits.

Weights are cast as a whole; autocast would cost Swin about half its speed. Sampling positions,
normalization and the last sigmoid are float32 in every precision.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, cycle
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bgpipe.config.settings import Precision
from bgpipe.pipeline.errors import Code, DeviceLost, Refused, TransientError, UsageError
from bgpipe.pipeline.inference.devices import is_out_of_memory
from bgpipe.pipeline.inference.transfer import CudaTransfer, HostTransfer, Step, capture_graph
from bgpipe.pipeline.networks.birefnet.checkpoint import load
from bgpipe.pipeline.networks.birefnet.fused import fuse
from bgpipe.pipeline.networks.preprocess import Normalizer
from bgpipe.pipeline.types import Matte

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, ResolvedModel

PASSES_IN_FLIGHT = 2
"""On a GPU: one is copied while the other is computed."""
DTYPES = {
    Precision.FLOAT16: torch.float16,
    Precision.BFLOAT16: torch.bfloat16,
    Precision.TF32: torch.float32,
    Precision.FLOAT32: torch.float32,
}
TENSOR_CORES = (7, 0)
"""Compute capability from which float16 is many times as fast as float32."""
AMPERE = (8, 0)
"""Compute capability from which TensorFloat-32 and bfloat16 are."""

log = logging.getLogger(__name__)


class Engine(ABC):
    """A network on one device, cpu or cuda. For one thread, as its buffers are reused."""

    _network: nn.Module

    def __init__(self, device: str, batch: int, threads: int) -> None:
        """`threads` of the CPU run one forward pass."""
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._normalize = Normalizer(self._device)
        self.batch = batch
        """Images in one forward pass, halved whenever the device runs out of memory."""

    @property
    def memory(self) -> int:
        """Bytes that the weights take on the device."""
        tensors = chain(self._network.parameters(), self._network.buffers())
        return sum(tensor.nbytes for tensor in tensors)

    def infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """Return a matte for each image, uint8 [h, w, C] of one size.

        Raises:
            Refused: a single image does not fit in the device's memory.
            TransientError: its matte contains NaN or infinity.
            DeviceLost: the device fails and will not recover within this process.
        """
        while True:
            try:
                return self._infer(images)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    if isinstance(error, torch.AcceleratorError):
                        raise DeviceLost(Code.DEVICE, f"device failed: {error}") from error
                    raise
            # Repeated outside the handler, which would keep the tensors alive.
            if self.batch == 1:
                full = "out of device memory at a single image: free it of other programs"
                raise Refused(Code.DEVICE, full)
            self.batch //= 2
            log.warning("out of device memory", extra={"fields": {"batch": self.batch}})

    @abstractmethod
    def _infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """Return the mattes, with passes of `batch` images."""


class BiRefNetEngine(Engine):
    """The main model, whose images are RGB of the model's size."""

    def __init__(
        self,
        model: ResolvedModel,
        device: str,
        *,
        batch: int,
        threads: int,
        precision: Precision = Precision.AUTO,
        compiled: bool = False,
        graphs: bool = False,
        load: Callable[[ResolvedModel], nn.Module] = lambda model: fuse(load(model), model.size),
    ) -> None:
        """Put `model` on `device`.

        `compiled`: torch.compile, kernels made for this network and device. `graphs`: CUDA graphs, a
        forward pass is launched as a whole. Both cost time at the start. `load` returns the network,
        float32: normalized RGB [B, 3, h, w] to logits [B, 1, h, w] and coarse ones [B, 1, h / 8, w / 8].

        Raises:
            ModelUnavailable: the file does not hold the weights of a BiRefNet.
            Refused: a single image does not fit in the device's memory.
            UsageError: the device does not have this precision.
        """
        super().__init__(device, batch, threads)
        self._on_gpu = self._device.type == "cuda"
        self._graphs = graphs
        self._size = model.size
        self.precision = choose_precision(precision, self._device)
        # Only algorithms of convolution that give the same bits every time.
        torch.backends.cudnn.deterministic = True
        self._network = cast_network(load(model), self.precision, self._device)
        self._allocated = 0
        self._transfers: Sequence[HostTransfer | CudaTransfer] = ()
        self._graph: Step | None = None
        if compiled:
            self._network.compile(dynamic=False)
            log.info("compiling the model: takes minutes the first time, is cached then")
        if compiled or self._on_gpu:  # compile, capture and allocate before the first image arrives
            self.infer([np.zeros((*self._size, 3), np.uint8)])

    @torch.inference_mode()
    def _infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """Launch each pass before the output of the previous one is read."""
        if self._allocated != self.batch:
            self._allocate()
        mattes: list[Matte] = []
        launched: deque[tuple[HostTransfer | CudaTransfer, int]] = deque()
        for transfer, start in zip(cycle(self._transfers), range(0, len(images), self.batch)):
            if len(launched) == len(self._transfers):
                mattes += _read_mattes(*launched.popleft())
            piece = images[start : start + self.batch]
            transfer.launch(piece, self._graph or self._forward)
            launched.append((transfer, len(piece)))
        for transfer, count in launched:
            mattes += _read_mattes(transfer, count)
        return mattes

    def _allocate(self) -> None:
        """Replace the buffers, and the graph if there is one, by those of the batch's size."""
        self._transfers, self._graph = (), None
        if self._on_gpu:
            torch.cuda.empty_cache()
            self._transfers = [
                CudaTransfer(self.batch, self._size, self._device) for _ in range(PASSES_IN_FLIGHT)
            ]
            if self._graphs:
                shape = (self.batch, *self._size, 3)
                self._graph = capture_graph(self._forward, shape, self._device)
        else:
            self._transfers = [HostTransfer(self.batch, self._size)]
        self._allocated = self.batch

    def _forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return mattes [B, h, w] and coarse ones of uint8 [B, h, w, 3], and whether each is finite [B]."""
        image = self._normalize(pixels.permute(0, 3, 1, 2))  # [B, 3, h, w], channels last
        outputs = self._network(image.to(DTYPES[self.precision]))
        logits, coarse = (output.float().squeeze(1) for output in outputs)
        is_finite = logits.isfinite().flatten(1).all(dim=1)
        mattes = torch.sigmoid(logits)
        # Half the bytes to copy; their steps are a tenth of one of 255 levels.
        return mattes.half() if self._on_gpu else mattes, torch.sigmoid(coarse), is_finite


def _read_mattes(transfer: HostTransfer | CudaTransfer, count: int) -> list[Matte]:
    alphas, coarse, is_finite = (output[:count] for output in transfer.outputs())
    mattes = make_mattes(alphas, is_finite)
    return [
        replace(matte, coarse=plane.numpy()) for matte, plane in zip(mattes, coarse, strict=True)
    ]


def make_mattes(alphas: Tensor, is_finite: Tensor) -> list[Matte]:
    """Return alphas [N, h, w] of the host as mattes; `is_finite` [N] was judged on the device."""
    if not is_finite.all():
        raise TransientError(Code.DEVICE, "model output contains NaN or infinity")
    return [Matte(alpha.numpy()) for alpha in alphas.float()]


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision itself, or for `auto` the one that suits the device.

    Raises UsageError if the device does not have it.
    """
    if device.type != "cuda":
        if precision is Precision.TF32:
            raise UsageError("precision not available on a CPU: tf32: choose float32")
        return Precision.FLOAT32 if precision is Precision.AUTO else precision
    capability = torch.cuda.get_device_capability(device)
    if precision is Precision.AUTO:
        # Released weights are float16 or are used so, and it is eight times as exact as bfloat16.
        return Precision.FLOAT16 if capability >= TENSOR_CORES else Precision.FLOAT32
    if precision in (Precision.TF32, Precision.BFLOAT16) and capability < AMPERE:
        gpu = f"{torch.cuda.get_device_name(device)}, compute capability {capability[0]}.{capability[1]}"
        raise UsageError(
            f"precision not available on {gpu}: {precision}: choose float16 or float32"
        )
    return precision


def cast_network(network: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """Put the network on the device, and set how torch multiplies float32 in this process."""
    multiply = "tf32" if precision is Precision.TF32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = multiply
    torch.backends.cudnn.fp32_precision = multiply
    return network.to(device, DTYPES[precision])
