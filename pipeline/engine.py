"""Engine: model inputs in, mattes out. It owns the device; the only file it reads is the weights.

Micro-batches have a fixed shape: an incomplete one is padded, so that the matte of an image does
not depend on its neighbours. The weights are cast whole instead of using autocast, which costs
Swin about half its speed; normalisation and the last sigmoid stay in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bgpipe.pipeline.errors import Code, DeviceLost, TransientError
from bgpipe.pipeline.model.fuse import fuse
from bgpipe.pipeline.model.weights import bytes_of, load
from bgpipe.pipeline.types import Matte

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, ResolvedModel

# ImageNet's statistics of RGB in [0, 1], which every released checkpoint was trained with.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

log = logging.getLogger(__name__)


class Engine:
    """One model on one device. Use it from one thread: its buffers are reused."""

    def __init__(
        self,
        model: ResolvedModel,
        device: str,
        *,
        batch: int,
        threads: int,
        load: Callable[[ResolvedModel], nn.Module] = lambda model: fuse(load(model), model.size),
    ) -> None:
        """Put `model` on `device`, cpu or cuda; `threads` of the CPU run one forward pass.

        `batch` images go through at once, until the device's memory says otherwise. `load` returns
        what turns normalised RGB [B, 3, h, w] into logits [B, 1, h, w].
        """
        self._device = torch.device(device)
        self._dtype = torch.float16 if self._on_gpu else torch.float32
        self._size = model.size
        torch.set_num_threads(threads)
        # TensorFloat-32 for what stays in float32, such as the deformable convolutions' sampling.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        self._network = load(model).to(self._device, self._dtype)
        self._mean = torch.tensor(MEAN, device=self._device).view(1, 3, 1, 1)
        self._deviation = torch.tensor(DEVIATION, device=self._device).view(1, 3, 1, 1)
        self._allocate(batch)

    @property
    def batch(self) -> int:
        """Images in one forward pass."""
        return self._batch

    @property
    def memory(self) -> int:
        """Bytes of the device that its weights hold."""
        return bytes_of(self._network)

    def infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """One matte for each image, uint8 RGB [h, w, 3] of the model's size.

        Raises:
            TransientError: a single image does not fit in the device's memory.
            DeviceLost: the device fails and will not recover within this process.

        """
        try:
            return [matte for chunk in self._chunks(images) for matte in self._run(chunk)]
        except torch.OutOfMemoryError:
            self._shrink()
        except torch.AcceleratorError as error:
            raise DeviceLost(Code.DEVICE, f"the device failed: {error}") from error
        return self.infer(images)  # outside the handler, which would keep the tensors alive

    @property
    def _on_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _allocate(self, batch: int) -> None:
        """Make the host's side of the copies; pinned, the device reads and writes it by itself."""
        height, width = self._size
        self._batch = batch
        self._input = torch.zeros(
            (batch, height, width, 3), dtype=torch.uint8, pin_memory=self._on_gpu
        )
        self._output = torch.zeros((batch, height, width), pin_memory=self._on_gpu)

    def _shrink(self) -> None:
        """Halve the batch; the same mattes in more passes."""
        if self._batch == 1:
            raise TransientError(Code.DEVICE, "out of device memory at a single image")
        self._allocate(self._batch // 2)
        log.warning("out of device memory", extra={"fields": {"batch": self._batch}})

    def _chunks(self, images: Sequence[Pixels]) -> Iterator[Sequence[Pixels]]:
        return (images[i : i + self._batch] for i in range(0, len(images), self._batch))

    @torch.inference_mode()
    def _run(self, images: Sequence[Pixels]) -> list[Matte]:
        """One forward pass over at most a full batch; rows without an image hold earlier ones."""
        for row, image in zip(self._input, images, strict=False):
            row.copy_(torch.from_numpy(image))
        logits = self._network(self._normalised(self._input.to(self._device, non_blocking=True)))
        self._output.copy_(torch.sigmoid(logits.float()).squeeze(1), non_blocking=True)
        if self._on_gpu:
            torch.cuda.synchronize()
        return [_matte(row) for row in self._output[: len(images)]]

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Uint8 [B, h, w, 3] as the network's input [B, 3, h, w]."""
        image = pixels.permute(0, 3, 1, 2).float().div(255)  # [B, 3, h, w] in [0, 1]
        return image.sub(self._mean).div(self._deviation).to(self._dtype).contiguous()


def _matte(row: Tensor) -> Matte:
    if not row.isfinite().all():
        raise TransientError(Code.DEVICE, "the model's answer holds values that are no numbers")
    return Matte(row.numpy().copy())
