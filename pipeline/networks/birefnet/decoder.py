"""BiRefNet's decoder: four blocks from coarse to fine, each with the image as another input.

Before every block the image, cut into tiles of the block's size and stacked as channels, joins the
features ("inward reference"); after it a head trained on the image's gradient gates them ("outward
reference"). Inside a block, atrous spatial pyramid pooling with deformable kernels is the paper's
reconstruction module. Zheng et al. 2024, Bilateral Reference for High-Resolution Dichotomous Image
Segmentation, section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.config import ModelConfig
from bgpipe.pipeline.networks.birefnet.deform_conv import DeformableConv

TILES = {5: 32, 4: 16, 3: 8, 2: 4, 1: 1}
"""Tiles per side of the image in the image branch of each level."""


class PlainConvolution(nn.Module):
    """A convolution without offsets, in the place of a deformable one."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.regular_conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.regular_conv(x)
        return out


class ASPPBranch(nn.Module):
    def __init__(self, config: ModelConfig, kernel: int) -> None:
        super().__init__()
        conv = DeformableConv if config.deformable else PlainConvolution
        self.atrous_conv = conv(config.inner, config.branch, kernel)
        self.bn = nn.BatchNorm2d(config.branch)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


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
            nn.ReLU(),
        )
        self.conv1 = nn.Conv2d((2 + len(config.kernels)) * branch, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)

    def forward(self, x: Tensor) -> Tensor:
        local = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms)]
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[2:])
        return F.relu(self.bn1(self.conv1(torch.cat([*local, pooled], dim=1))))


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
        x = self.dec_att(F.relu(self.bn_in(self.conv_in(x))))
        out: Tensor = self.bn_out(self.conv_out(x))
        return out


class Lateral(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
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
    """Image and encoder maps of stride 4, 8, 16, 32 to logits [B, 1, H, W]."""

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
        self.lateral_block4 = Lateral(c3)
        self.lateral_block3 = Lateral(c2)
        self.lateral_block2 = Lateral(c1)
        self.conv_out1 = nn.Sequential(nn.Conv2d(c1 // 2 + i1, 1, 1))
        for level, channels in ((4, c3), (3, c2), (2, c1)):
            self._add_heads(level, channels, config.gate)

    def _add_heads(self, level: int, channels: int, gate: int) -> None:
        features = (nn.Conv2d(channels, gate, 3, padding=1), nn.BatchNorm2d(gate), nn.ReLU())
        self.add_module(f"gdt_convs_{level}", nn.Sequential(*features))
        self.add_module(f"gdt_convs_attn_{level}", nn.Sequential(nn.Conv2d(gate, 1, 1)))
        # For training only, but part of every released checkpoint.
        self.add_module(f"gdt_convs_pred_{level}", nn.Sequential(nn.Conv2d(gate, 1, 1)))
        self.add_module(f"conv_ms_spvn_{level}", nn.Conv2d(channels, 1, 1))

    def forward(self, image: Tensor, features: list[Tensor]) -> Tensor:
        x1, x2, x3, x4 = features
        p4 = self._gate(4, self.decoder_block4(torch.cat([x4, self.ipt_blk5(image)], dim=1)))
        a3 = resize_like(p4, x3) + self.lateral_block4(x3)
        p3 = self._gate(3, self.decoder_block3(torch.cat([a3, self.ipt_blk4(image)], dim=1)))
        a2 = resize_like(p3, x2) + self.lateral_block3(x2)
        p2 = self._gate(2, self.decoder_block2(torch.cat([a2, self.ipt_blk3(image)], dim=1)))
        a1 = resize_like(p2, x1) + self.lateral_block2(x1)
        p1 = self.decoder_block1(torch.cat([a1, self.ipt_blk2(image)], dim=1))
        return self.head(p1, image)

    def head(self, x: Tensor, image: Tensor) -> Tensor:
        """Return logits of the image's size from the finest map and the image itself."""
        maps = torch.cat([resize_like(x, image), self.ipt_blk1(image)], dim=1)
        logits: Tensor = self.conv_out1(maps)
        return logits

    def _gate(self, level: int, x: Tensor) -> Tensor:
        gradient = self.get_submodule(f"gdt_convs_{level}")(x)
        attention: Tensor = self.get_submodule(f"gdt_convs_attn_{level}")(gradient)
        return x * attention.sigmoid()


def stack_tiles(image: Tensor, tiles: int) -> Tensor:
    """Cut [B, 3, H, W] into tiles x tiles pieces and stack them: [B, 3 * tiles^2, H/tiles, W/tiles].

    Channel (color * tiles + row) * tiles + column: the order of checkpoints since 2024-11-05.
    """
    batch, colors, height, width = image.shape
    x = image.view(batch, colors, tiles, height // tiles, tiles, width // tiles)
    return x.transpose(3, 4).reshape(batch, -1, height // tiles, width // tiles)


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Resize bilinearly with corner pixels aligned, as everywhere in this network."""
    return F.interpolate(x, size=reference.shape[2:], mode="bilinear", align_corners=True)
