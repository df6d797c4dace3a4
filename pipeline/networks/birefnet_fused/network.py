"""BiRefNet rewritten for inference: the same logits in less time.

The plain network is trained, loaded and compared with the reference; engines run this one. Every
rewrite is exact up to rounding: batch norms are folded, the last convolution precedes the last
resize, windows of attention use precomputed indices, bias and mask are made once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.decoder import DecoderBlock, resize_like
from bgpipe.pipeline.networks.birefnet.network import BiRefNet, check_size
from bgpipe.pipeline.networks.birefnet.swin import Swin
from bgpipe.pipeline.networks.birefnet_fused.decoder import FusedDecoder, FusedDecoderBlock
from bgpipe.pipeline.networks.birefnet_fused.efficientnet import FusedEfficientNet
from bgpipe.pipeline.networks.birefnet_fused.layers import submodule
from bgpipe.pipeline.networks.birefnet_fused.swin import FusedSwin


@torch.no_grad()
def fuse(network: BiRefNet, size: tuple[int, int]) -> FusedBiRefNet:
    """Return the network for inference on images of `size` (height, width), on the same device.

    `network` stays usable and shares memory with the result. Its weights must be float32; cast the
    result. Raises InvalidSize unless both sides are multiples of 32.
    """
    with torch.device("meta"):
        twin = BiRefNet(network.config)
    twin.load_state_dict(network.state_dict(), assign=True)
    fused = FusedBiRefNet(twin, size).requires_grad_(requires_grad=False)
    for module in fused.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=False)
    return fused.eval()


class FusedBiRefNet(nn.Module):
    """RGB [B, 3, *size], normalized as for BiRefNet, to logits [B, 1, *size]."""

    def __init__(self, network: BiRefNet, size: tuple[int, int]) -> None:
        super().__init__()
        check_size(*size)
        height, width = size
        sizes = [size, (height // 2, width // 2)]
        self.backbone = (
            FusedSwin(network.bb, sizes)
            if isinstance(network.bb, Swin)
            else FusedEfficientNet(network.bb)
        )
        self.squeeze = FusedDecoderBlock(submodule(network, "squeeze_module.0", DecoderBlock))
        self.decoder = FusedDecoder(network.decoder)

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        half = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=True)
        maps = [
            torch.cat([whole, resize_like(small, whole)], dim=1)
            for whole, small in zip(*self.backbone([image, half]), strict=True)
        ]
        *shallow, deep = maps
        context = torch.cat([*(resize_like(x, deep) for x in shallow), deep], dim=1)
        logits: Tensor = self.decoder(image, [*shallow, self.squeeze(context)])
        return logits
