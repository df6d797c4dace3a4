"""The engine of the edge model: tiles of an image with their trimaps in, alpha out.

As in engine.py a micro-batch has a fixed number of tiles, an incomplete one is padded, and
normalization stays in float32, so that the alpha of a tile does not depend on its neighbors.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bgpipe.pipeline.inference.engine import Engine, LaunchedPass, make_mattes
from bgpipe.pipeline.matting.edges import UNKNOWN
from bgpipe.pipeline.networks.preprocess import stack_images
from bgpipe.pipeline.networks.vitmatte import load
from bgpipe.pipeline.types import Pixels, ResolvedModel


class VitMatteEngine(Engine):
    """ViTMatte, whose images are tiles, RGB and trimap; both sides are multiples of 32."""

    def __init__(
        self,
        model: ResolvedModel,
        device: str,
        *,
        batch: int,
        threads: int,
        load: Callable[[ResolvedModel, torch.dtype], nn.Module] = load,
    ) -> None:
        """See BiRefNetEngine; `load` returns transformers' VitMatteForImageMatting."""
        # Normalized by the authors' training statistics; transformers' image processor has 0.5.
        super().__init__(device, batch, threads)
        self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        self._network = load(model, self._dtype).to(self._device)

    @torch.inference_mode()
    def _launch(self, images: Sequence[Pixels]) -> LaunchedPass:
        pixels = stack_images(images, self.batch).to(self._device)  # [B, h, w, 4]
        alphas = self._network(self._make_input(pixels)).alphas  # [B, 1, h, w]
        alphas = alphas[: len(images), 0].float()
        is_finite = alphas.isfinite().flatten(1).all(dim=1)
        return lambda: make_mattes(alphas.cpu(), is_finite.cpu())

    def _make_input(self, pixels: Tensor) -> Tensor:
        """Return uint8 [B, h, w, 4] as [B, 4, h, w]: normalized RGB, and a trimap of 0, 1/2, 1."""
        planes = pixels.permute(0, 3, 1, 2).float()  # [B, 4, h, w]
        trimap = planes[:, 3:].div(UNKNOWN).round().div(2)
        inputs = torch.cat([self._normalize(planes[:, :3]), trimap], dim=1)
        return inputs.to(self._dtype).contiguous()
