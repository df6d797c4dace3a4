"""Engine: model inputs in, mattes out. It owns the device; the only file it reads is the weights.

Micro-batches have a fixed shape: an incomplete one is padded, so that the matte of an image does
not depend on its neighbours. Its place among them does not matter either; their number may
change the last bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bgpipe.config.choices import Precision
from bgpipe.pipeline.errors import Code, DeviceLost, TransientError
from bgpipe.pipeline.inference.mean_colors import mean_colours
from bgpipe.pipeline.inference.precision import DTYPES, cast_network, choose_precision
from bgpipe.pipeline.inference.transfer import Step, Transfer, capture, make_transfer
from bgpipe.pipeline.networks.birefnet.checkpoint import load, memory_bytes
from bgpipe.pipeline.networks.birefnet_fused.network import fuse
from bgpipe.pipeline.networks.preprocess import DEVIATION, MEAN
from bgpipe.pipeline.types import Matte

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, ResolvedModel

PASSES_IN_FLIGHT = 2
"""On a GPU: the copies of one lie beside the computing of the other."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine computes; `compiled` and `graphs` cost time at the start."""

    precision: Precision = Precision.AUTO
    compiled: bool = False
    """torch.compile: kernels made for this network and device."""
    graphs: bool = False
    """CUDA's: a forward pass is launched whole instead of kernel by kernel."""
    means: bool = False
    """Mean colours beside each matte, so that a lane has less to do."""


class BiRefNetEngine:
    """One model on one device. Use it from one thread: its buffers are reused."""

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

        `batch` images go through at once, until the device's memory says otherwise. `load` returns
        what turns normalised RGB [B, 3, h, w] into logits [B, 1, h, w], in float32.

        Raises:
            ModelUnavailable: the weights are not what they should be.
            TransientError: a single image does not fit in the device's memory.
            UsageError: the device has no such precision.

        """
        self._device = torch.device(device)
        self._options = options
        self._size = model.size
        self._weights = model.sha256
        self.precision = choose_precision(options.precision, self._device)
        torch.set_num_threads(threads)
        # Among the forms of a convolution only those that give the same bits every time.
        torch.backends.cudnn.deterministic = True
        self._network = cast_network(load(model), self.precision, self._device)
        if options.compiled:
            self._network.compile(dynamic=False)
        self._mean = torch.tensor(MEAN, device=self._device).view(1, 3, 1, 1)
        self._deviation = torch.tensor(DEVIATION, device=self._device).view(1, 3, 1, 1)
        self._allocate(batch)
        if options.compiled or self._on_gpu:
            self._warm_up()

    @property
    def batch(self) -> int:
        """Images in one forward pass."""
        return self._batch

    @property
    def signature(self) -> str:
        """What the best batch depends on: device, weights, size, mode and software, for people too."""
        product = torch.cuda.get_device_name(self._device) if self._on_gpu else "CPU"
        height, width = self._size
        how = f"{self.precision}{' compiled' * self._options.compiled}{' graphs' * self._options.graphs}"
        return (
            f"{product}, {self._weights[:16]}, {height}x{width}, {how}, torch {torch.__version__}"
        )

    def set_batch_size(self, batch: int) -> None:
        """From now on, `batch` images in one forward pass."""
        if batch != self._batch:
            self._free()
            self._allocate(batch)

    @property
    def memory(self) -> int:
        """Bytes of the device that its weights hold."""
        return memory_bytes(self._network)

    def infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """One matte for each image, uint8 RGB [h, w, 3] of the model's size.

        Raises:
            TransientError: a single image does not fit in the device's memory.
            DeviceLost: the device fails and will not recover within this process.

        """
        try:
            return list(self._mattes(images))
        except torch.OutOfMemoryError:
            pass
        except torch.AcceleratorError as error:
            raise DeviceLost(Code.DEVICE, f"the device failed: {error}") from error
        self._shrink()  # outside the handler, which would keep the tensors alive
        return self.infer(images)

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _allocate(self, batch: int) -> None:
        self._batch = batch
        count = PASSES_IN_FLIGHT if self._on_gpu else 1
        self._transfers = [make_transfer(batch, self._size, self._device) for _ in range(count)]
        self._step: Step | None = None

    def _shrink(self) -> None:
        """Halve the batch; the same mattes in more passes."""
        if self._batch == 1:
            raise TransientError(Code.DEVICE, "out of device memory at a single image")
        self.set_batch_size(self._batch // 2)
        log.warning("out of device memory", extra={"fields": {"batch": self._batch}})

    def _free(self) -> None:
        self._transfers, self._step = [], None
        if self._on_gpu:
            torch.cuda.empty_cache()

    def _warm_up(self) -> None:
        """Compile, capture and fill the memory now, where there is time, and not at an image."""
        if self._options.compiled:
            log.info("compiling the model: some minutes the first time, then it is kept")
        self.infer([torch.zeros((*self._size, 3), dtype=torch.uint8).numpy()])

    @torch.inference_mode()
    def _mattes(self, images: Sequence[Pixels]) -> Iterator[Matte]:
        """Launch a pass before the answers of the one before it are looked at."""
        launched: list[tuple[Transfer, int]] = []
        for number, start in enumerate(range(0, len(images), self._batch)):
            free = self._transfers[number % len(self._transfers)]
            if len(launched) == len(self._transfers):
                yield from _outputs(*launched.pop(0))
            some = images[start : start + self._batch]
            free.launch(some, self._ready_step())
            launched.append((free, len(some)))
        for transfer_, count in launched:
            yield from _outputs(transfer_, count)

    def _ready_step(self) -> Step:
        if self._step is None:
            shape = (self._batch, *self._size, 3)
            with_graph = self._on_gpu and self._options.graphs
            self._step = (
                capture(self._forward, shape, self._device) if with_graph else self._forward
            )
        return self._step

    def _forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Mattes [B, h, w] of uint8 [B, h, w, 3], whether each is of numbers, and mean colours."""
        logits = self._network(self._normalised(pixels)).float().squeeze(1)
        sound = logits.isfinite().flatten(1).all(dim=1)
        mattes = torch.sigmoid(logits)
        # Half the bytes to copy; their steps are a tenth of one of 255 levels.
        answers = (mattes.half() if self._on_gpu else mattes, sound)
        return (*answers, mean_colours(pixels, mattes)) if self._options.means else answers

    def _normalised(self, pixels: Tensor) -> Tensor:
        """The network's input [B, 3, h, w], its channels side by side as they come."""
        image = pixels.permute(0, 3, 1, 2).float().div(255)  # [B, 3, h, w] in [0, 1]
        return image.sub(self._mean).div(self._deviation).to(DTYPES[self.precision])


def _outputs(launched: Transfer, count: int) -> Iterator[Matte]:
    mattes, sound, *more = launched.outputs()
    means = [one.numpy() for one in more[0]] if more else [None] * len(mattes)
    for matte, is_sound, mean in zip(mattes[:count].float(), sound.tolist(), means, strict=False):
        if not is_sound:
            raise TransientError(Code.DEVICE, "the model's answer holds values that are no numbers")
        yield Matte(matte.numpy(), mean)
