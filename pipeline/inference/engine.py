"""The engine of the main model: model inputs in, mattes out. It owns the device.

Micro-batches have a fixed shape: an incomplete one is padded, so that the matte of an image depends
neither on its neighbors nor on its position. Only the size of the batch may change the last bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bgpipe.config.choices import Precision
from bgpipe.pipeline.inference.batching import MicroBatch, make_mattes
from bgpipe.pipeline.inference.precision import DTYPES, cast_network, choose_precision
from bgpipe.pipeline.inference.transfer import Step, Transfer, capture_graph, make_transfer
from bgpipe.pipeline.networks.birefnet.checkpoint import count_bytes, load
from bgpipe.pipeline.networks.birefnet.fused import fuse
from bgpipe.pipeline.networks.preprocess import Normalizer

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Matte, Pixels, ResolvedModel

PASSES_IN_FLIGHT = 2
"""On a GPU: one is copied while the other is computed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine computes; `compiled` and `graphs` cost time at the start."""

    precision: Precision = Precision.AUTO
    compiled: bool = False
    """torch.compile: kernels made for this network and device."""
    graphs: bool = False
    """CUDA graphs: a forward pass is launched as a whole instead of kernel by kernel."""


class BiRefNetEngine:
    """One model on one device. For one thread: its buffers are reused."""

    def __init__(
        self,
        model: ResolvedModel,
        device: str,
        *,
        batch: int,
        threads: int,
        options: EngineOptions = EngineOptions(),
        load: Callable[[ResolvedModel], nn.Module] = lambda model: fuse(load(model), model.size),
    ) -> None:
        """Put `model` on `device`, cpu or cuda; `threads` of the CPU run one forward pass.

        `batch` is the number of images in one pass, reduced if the device's memory is too small.
        `load` returns the network, float32: normalized RGB [B, 3, h, w] to logits [B, 1, h, w].

        Raises:
            ModelUnavailable: the file does not hold the weights of a BiRefNet.
            TransientError: a single image does not fit in the device's memory.
            UsageError: the device does not have this precision.

        """
        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        self._options = options
        self._size = model.size
        self._batch = MicroBatch(batch)
        self.precision = choose_precision(options.precision, self._device)
        torch.set_num_threads(threads)
        # Only algorithms of convolution that give the same bits every time.
        torch.backends.cudnn.deterministic = True
        self._normalize = Normalizer(self._device)
        self._network = cast_network(load(model), self.precision, self._device)
        if options.compiled:
            self._network.compile(dynamic=False)
        self._allocated = 0
        self._transfers: list[Transfer] = []
        self._step: Step | None = None
        if options.compiled or self._on_gpu:
            self._warm_up()

    @property
    def batch(self) -> int:
        """Number of images in one forward pass."""
        return self._batch.size

    @property
    def memory(self) -> int:
        """Bytes that the weights take on the device."""
        return count_bytes(self._network)

    def infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """Return a matte for each image, uint8 RGB [h, w, 3] of the model's size.

        Raises:
            TransientError: a single image does not fit in the device's memory.
            DeviceLost: the device fails and will not recover within this process.

        """
        return self._batch.run(lambda: self._infer(images))

    def _warm_up(self) -> None:
        """Compile, capture and allocate before the first image arrives."""
        if self._options.compiled:
            log.info("compiling the model: takes minutes the first time, is cached then")
        self.infer([np.zeros((*self._size, 3), np.uint8)])

    @torch.inference_mode()
    def _infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """Launch each pass before the output of the previous one is read."""
        self._allocate()
        batch = self._batch.size
        mattes: list[Matte] = []
        launched: list[tuple[Transfer, int]] = []
        for number, start in enumerate(range(0, len(images), batch)):
            if len(launched) == len(self._transfers):
                mattes += _read_mattes(*launched.pop(0))
            transfer = self._transfers[number % len(self._transfers)]
            piece = images[start : start + batch]
            transfer.launch(piece, self._make_step())
            launched.append((transfer, len(piece)))
        for transfer, count in launched:
            mattes += _read_mattes(transfer, count)
        return mattes

    def _allocate(self) -> None:
        """Replace the buffers if the batch has another size than at the last pass."""
        if self._allocated == self.batch:
            return
        self._transfers, self._step = [], None
        if self._on_gpu:
            torch.cuda.empty_cache()
        count = PASSES_IN_FLIGHT if self._on_gpu else 1
        self._transfers = [
            make_transfer(self.batch, self._size, self._device) for _ in range(count)
        ]
        self._allocated = self.batch

    def _make_step(self) -> Step:
        if self._step is None:
            shape = (self.batch, *self._size, 3)
            captures = self._on_gpu and self._options.graphs
            self._step = (
                capture_graph(self._forward, shape, self._device) if captures else self._forward
            )
        return self._step

    def _forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return mattes [B, h, w] of uint8 [B, h, w, 3], and whether each is finite [B]."""
        image = self._normalize(pixels.permute(0, 3, 1, 2))  # [B, 3, h, w], channels last
        logits = self._network(image.to(DTYPES[self.precision])).float().squeeze(1)
        is_finite = logits.isfinite().flatten(1).all(dim=1)
        mattes = torch.sigmoid(logits)
        # Half the bytes to copy; their steps are a tenth of one of 255 levels.
        return mattes.half() if self._on_gpu else mattes, is_finite


def _read_mattes(transfer: Transfer, count: int) -> list[Matte]:
    mattes, is_finite = transfer.outputs()
    return make_mattes(mattes[:count], is_finite[:count])
