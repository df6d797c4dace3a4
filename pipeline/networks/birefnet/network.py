"""BiRefNet (Zheng et al. 2024): an image to the logits of its foreground.

Parameter names are those of the released checkpoints (ZhengPeng7/BiRefNet, MIT).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.config import ModelConfig, SwinConfig
from bgpipe.pipeline.networks.birefnet.decoder import Decoder, DecoderBlock, resize_like
from bgpipe.pipeline.networks.birefnet.efficientnet import EfficientNet
from bgpipe.pipeline.networks.birefnet.swin import Swin

STRIDE = 32


class InvalidSize(ValueError):
    """The image's sides are not multiples of 32."""


class BiRefNet(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        backbone = config.backbone
        self.bb = Swin(backbone) if isinstance(backbone, SwinConfig) else EfficientNet(backbone)
        context = sum(config.features)
        self.squeeze_module = nn.Sequential(DecoderBlock(config, context, config.features[-1]))
        self.decoder = Decoder(config)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B, 1, H, W] for RGB [B, 3, H, W], normalized with ImageNet's statistics.

        Raises InvalidSize unless H and W are multiples of 32.
        """
        check_size(*image.shape[2:])
        x, _ = self.encode_and_decode(image)
        return self.decoder.head(x, image)

    def encode_and_decode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map [B, C, H / 4, W / 4] of the logits, and coarse logits [B, 1, H / 8, W / 8]."""
        half = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=True)
        scales = [image, half]
        maps = self.bb(scales) if isinstance(self.bb, Swin) else map(self.bb, scales)
        *shallow, deep = (
            torch.cat([whole, resize_like(small, whole)], dim=1)
            for whole, small in zip(*maps, strict=True)
        )
        context = torch.cat([*(resize_like(x, deep) for x in shallow), deep], dim=1)
        x, coarse = self.decoder(image, [*shallow, self.squeeze_module(context)])
        return x, coarse


def check_size(height: int, width: int) -> None:
    """Raise InvalidSize unless both sides are multiples of 32."""
    if height % STRIDE or width % STRIDE:
        raise InvalidSize(
            f"image sides must be multiples of {STRIDE}: {height}x{width}: resize it first"
        )
