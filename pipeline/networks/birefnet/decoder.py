"""BiRefNet's decoder: four blocks from coarse to fine, each with the image as another input.

Before every block the image, cut into tiles of the block's size and stacked as channels, joins the
features ("inward reference"); after it a head trained on the image's gradient gates them ("outward
reference"). Inside a block, atrous spatial pyramid pooling with deformable kernels is the paper's
reconstruction module. Zheng et al. 2024, Bilateral Reference for High-Resolution Dichotomous Image
Segmentation, section 3.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.config import ModelConfig
from bgpipe.pipeline.networks.birefnet.deform_conv import DeformableConv

COARSE = 2  # level whose head for training also gives the coarse matte at inference
TILES = {5: 32, 4: 16, 3: 8, 2: 4, 1: 1}
"""Tiles per side of the image in the image branch of each level."""


class ASPPBranch(nn.Module):
    def __init__(self, config: ModelConfig, kernel: int) -> None:
        super().__init__()
        inner, branch = config.inner, config.branch
        self.atrous_conv: nn.Module
        if config.deformable:
            self.atrous_conv = DeformableConv(inner, branch, kernel)
        else:
            conv = nn.Conv2d(inner, branch, kernel, padding=kernel // 2, bias=False)
            self.atrous_conv = nn.Sequential(OrderedDict(regular_conv=conv))
        self.bn = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.bn(self.atrous_conv(x)))


class ASPP(nn.Module):
    """[B, inner, H, W] to the same shape: branches of several kernels and a global one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner, branch = config.inner, config.branch
        self.aspp1 = ASPPBranch(config, 1)
        self.aspp_deforms = nn.ModuleList(ASPPBranch(config, kernel) for kernel in config.kernels)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inner, branch, 1, bias=False),
            nn.BatchNorm2d(branch),
            nn.ReLU(inplace=True),
        )
        self.conv1 = nn.Conv2d((2 + len(config.kernels)) * branch, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)

    def forward(self, x: Tensor) -> Tensor:
        local = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms)]
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[2:])
        return F.relu_(self.bn1(self.conv1(torch.cat([*local, pooled], dim=1))))


class DecoderBlock(nn.Module):
    """[B, inputs, H, W] to [B, outputs, H, W]."""

    def __init__(self, config: ModelConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, config.inner, 3, padding=1)
        self.bn_in = nn.BatchNorm2d(config.inner)
        self.dec_att = ASPP(config)
        self.conv_out = nn.Conv2d(config.inner, outputs, 3, padding=1)
        self.bn_out = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dec_att(F.relu_(self.bn_in(self.conv_in(x))))
        out: Tensor = self.bn_out(self.conv_out(x))
        return out


class ImageBranch(nn.Module):
    """Tiles of the image to features; no activation between the convolutions."""

    def __init__(self, level: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.tiles = TILES[level]
        self.conv1 = nn.Conv2d(3 * self.tiles**2, inner, 3, padding=1)
        self.conv_out = nn.Conv2d(inner, outputs, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x: Tensor = self.conv_out(self.conv1(stack_tiles(image, self.tiles)))
        return x


class Decoder(nn.Module):
    """Image and encoder maps of stride 4, 8, 16, 32 to one map of stride 4, and coarse logits of stride 8."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c1, c2, c3, c4 = config.features
        i1, i2, i3, i4 = (channels // config.image_divisor for channels in config.features)
        inner = config.image_inner
        self.ipt_blk5 = ImageBranch(5, inner, i4)
        self.ipt_blk4 = ImageBranch(4, inner, i4)
        self.ipt_blk3 = ImageBranch(3, inner, i3)
        self.ipt_blk2 = ImageBranch(2, inner, i2)
        self.ipt_blk1 = ImageBranch(1, inner, i1)
        self.decoder_block4 = DecoderBlock(config, c4 + i4, c3)
        self.decoder_block3 = DecoderBlock(config, c3 + i4, c2)
        self.decoder_block2 = DecoderBlock(config, c2 + i3, c1)
        self.decoder_block1 = DecoderBlock(config, c1 + i2, c1 // 2)
        self.lateral_block4 = nn.Sequential(OrderedDict(conv=nn.Conv2d(c3, c3, 1)))
        self.lateral_block3 = nn.Sequential(OrderedDict(conv=nn.Conv2d(c2, c2, 1)))
        self.lateral_block2 = nn.Sequential(OrderedDict(conv=nn.Conv2d(c1, c1, 1)))
        self.conv_out1 = nn.Sequential(nn.Conv2d(c1 // 2 + i1, 1, 1))
        for level, channels in ((4, c3), (3, c2), (2, c1)):
            self._add_heads(level, channels, config.gate)

    def _add_heads(self, level: int, channels: int, gate: int) -> None:
        conv, norm = nn.Conv2d(channels, gate, 3, padding=1), nn.BatchNorm2d(gate)
        features = nn.Sequential(conv, norm, nn.ReLU(inplace=True))
        self.add_module(f"gdt_convs_{level}", features)
        self.add_module(f"gdt_convs_attn_{level}", nn.Sequential(nn.Conv2d(gate, 1, 1)))
        # For training, all but conv_ms_spvn_2 only for it, but part of every released checkpoint.
        self.add_module(f"gdt_convs_pred_{level}", nn.Sequential(nn.Conv2d(gate, 1, 1)))
        self.add_module(f"conv_ms_spvn_{level}", nn.Conv2d(channels, 1, 1))

    def forward(self, image: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        *finer, x = features
        for level in (4, 3, 2, 1):
            tiles = getattr(self, f"ipt_blk{level + 1}")(image)
            x = getattr(self, f"decoder_block{level}")(torch.cat([x, tiles], dim=1))
            if level == COARSE:
                coarse: Tensor = getattr(self, f"conv_ms_spvn_{level}")(x)
            if level > 1:
                lateral = getattr(self, f"lateral_block{level}")(finer[level - 2])
                x = resize_like(self._gate(level, x), lateral) + lateral
        return x, coarse

    def head(self, x: Tensor, image: Tensor) -> Tensor:
        """Return logits of the image's size from the finest map and the image itself."""
        maps = torch.cat([resize_like(x, image), self.ipt_blk1(image)], dim=1)
        logits: Tensor = self.conv_out1(maps)
        return logits

    def _gate(self, level: int, x: Tensor) -> Tensor:
        gradient = getattr(self, f"gdt_convs_{level}")(x)
        attention: Tensor = getattr(self, f"gdt_convs_attn_{level}")(gradient)
        return x * attention.sigmoid()


def stack_tiles(image: Tensor, tiles: int) -> Tensor:
    """Cut [B, 3, H, W] into tiles x tiles pieces and stack them: [B, 3 * tiles^2, H/tiles, W/tiles].

    Channel (color * tiles + row) * tiles + column: the order of checkpoints since 2024-11-05.
    """
    batch, colors, height, width = image.shape
    x = image.view(batch, colors, tiles, height // tiles, tiles, width // tiles)
    x = x.permute(0, 3, 5, 1, 2, 4).reshape(batch, height // tiles, width // tiles, -1)
    return x.permute(0, 3, 1, 2)  # channels last in memory


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Resize bilinearly with corner pixels aligned, as everywhere in this network."""
    return F.interpolate(x, size=reference.shape[2:], mode="bilinear", align_corners=True)
