"""From an image to the input of a network: resized on the host, normalized on the device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bgpipe.pipeline.types import Pixels

MEAN = (0.485, 0.456, 0.406)
"""Mean and standard deviation of ImageNet's RGB in [0, 1], as all bundled and released networks were trained with."""
DEVIATION = (0.229, 0.224, 0.225)


def preprocess(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize the image to `size` (height, width), its aspect given up, as in training.

    Antialiased bilinear, within one level of Pillow's. torch has a fast path for uint8, but only
    for interleaved channels, as in `rgb`.
    """
    pixels = torch.from_numpy(np.require(rgb, requirements=["C", "W"]))
    image = pixels.permute(2, 0, 1)[None]  # [1, 3, H, W]
    resized = functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())  # [h, w, 3]


def stack_images(images: Sequence[Pixels], batch: int) -> Tensor:
    """Return uint8 [batch, h, w, C], padded with copies of the last image."""
    return torch.from_numpy(np.stack([*images, *[images[-1]] * (batch - len(images))]))


class Normalizer:
    """ImageNet's normalization, its constants on one device."""

    def __init__(self, device: torch.device) -> None:
        self._mean = torch.tensor(MEAN, device=device).view(1, 3, 1, 1)
        self._deviation = torch.tensor(DEVIATION, device=device).view(1, 3, 1, 1)

    def __call__(self, rgb: Tensor) -> Tensor:
        """Normalize RGB [B, 3, h, w] in [0, 255]; float32, in the memory format of `rgb`."""
        return rgb.float().div(255).sub(self._mean).div(self._deviation)
