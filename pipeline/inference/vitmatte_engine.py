"""EdgeEngine: tiles of a picture with their trimaps in, alpha out. It owns its part of the device.

As in bgpipe.pipeline.inference.engine a micro-batch has a fixed number of tiles, an incomplete one is padded,
and normalisation stays in float32, so that a tile's alpha does not depend on its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bgpipe.pipeline.errors import Code, DeviceLost, TransientError
from bgpipe.pipeline.matting.edges import UNKNOWN
from bgpipe.pipeline.networks.birefnet.checkpoint import memory_bytes
from bgpipe.pipeline.networks.preprocess import DEVIATION, MEAN
from bgpipe.pipeline.networks.vitmatte import load
from bgpipe.pipeline.types import Matte

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels, ResolvedModel

log = logging.getLogger(__name__)


class VitMatteEngine:
    """One ViTMatte on one device. Use it from one thread."""

    def __init__(
        self,
        model: ResolvedModel,
        device: str,
        *,
        batch: int,
        threads: int,
        load: Callable[[ResolvedModel, torch.dtype], nn.Module] = load,
    ) -> None:
        """As of bgpipe.pipeline.inference.engine.Engine."""
        self._device = torch.device(device)
        self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        torch.set_num_threads(threads)
        self._network = load(model, self._dtype).to(self._device)
        self._batch = batch
        # The statistics of the authors' training; transformers' image processor has others (one half).
        self._mean = torch.tensor(MEAN, device=self._device).view(1, 3, 1, 1)
        self._deviation = torch.tensor(DEVIATION, device=self._device).view(1, 3, 1, 1)

    @property
    def batch(self) -> int:
        """Tiles in one forward pass."""
        return self._batch

    @property
    def memory(self) -> int:
        """Bytes of the device that its weights hold."""
        return memory_bytes(self._network)

    def infer(self, images: Sequence[Pixels]) -> list[Matte]:
        """The alpha of each tile, uint8 [h, w, 4]: RGB and trimap, all of one size, multiples of 32.

        Raises:
            TransientError: a single tile does not fit in the device's memory.
            DeviceLost: the device fails and will not recover within this process.

        """
        try:
            starts = range(0, len(images), self._batch)
            return [matte for i in starts for matte in self._run(images[i : i + self._batch])]
        except torch.OutOfMemoryError:
            self._shrink()
        except torch.AcceleratorError as error:
            raise DeviceLost(Code.DEVICE, f"the device failed: {error}") from error
        return self.infer(images)  # outside the handler, which would keep the tensors alive

    def _shrink(self) -> None:
        """Halve the batch; the same alpha in more passes."""
        if self._batch == 1:
            raise TransientError(Code.DEVICE, "out of device memory at a single tile")
        self._batch //= 2
        log.warning("out of device memory", extra={"fields": {"tiles": self._batch}})

    @torch.inference_mode()
    def _run(self, tiles: Sequence[Pixels]) -> list[Matte]:
        """One forward pass over at most a full batch; what is missing repeats the last tile."""
        full = [*tiles, *[tiles[-1]] * (self._batch - len(tiles))]
        pixels = torch.from_numpy(np.stack(full)).to(self._device)  # [B, h, w, 4]
        alphas = self._network(self._normalised(pixels)).alphas  # [B, 1, h, w]
        answers = alphas[: len(tiles), 0].float().cpu()
        if not answers.isfinite().all():
            raise TransientError(Code.DEVICE, "ViTMatte's answer holds values that are no numbers")
        return [Matte(alpha.numpy().copy()) for alpha in answers]

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Uint8 [B, h, w, 4] as the network's input: RGB normalised, and a trimap of 0, 1/2 and 1."""
        planes = pixels.permute(0, 3, 1, 2).float()  # [B, 4, h, w]
        rgb = planes[:, :3].div(255).sub(self._mean).div(self._deviation)
        trimap = planes[:, 3:].div(UNKNOWN).round().div(2)
        return torch.cat([rgb, trimap], dim=1).to(self._dtype).contiguous()
