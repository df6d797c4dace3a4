"""The decoder for inference: the outputs of birefnet/decoder.py with less to compute.

Batch norms are folded into the convolutions, once and in float32; the wide maps of the branches,
and those of full size before the last convolution, are never made.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.decoder import (
    ASPP,
    ASPPBranch,
    Decoder,
    DecoderBlock,
    ImageBranch,
    PlainConvolution,
    resize_like,
    stack_tiles,
)
from bgpipe.pipeline.networks.birefnet.deform_conv import DeformableConv, sample_bilinear
from bgpipe.pipeline.networks.birefnet_fused.layers import (
    DenseLayer,
    fold_batch_norm,
    make_convolution,
    merge_norm,
    submodule,
)


class FusedDecoder(nn.Module):
    """Image and encoder maps of stride 4, 8, 16, 32 to logits [B, 1, H, W]."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.images = nn.ModuleList(
            FusedImageBranch(submodule(decoder, f"ipt_blk{level}", ImageBranch))
            for level in (5, 4, 3, 2)
        )
        self.blocks = nn.ModuleList(
            FusedDecoderBlock(submodule(decoder, f"decoder_block{level}", DecoderBlock))
            for level in (4, 3, 2, 1)
        )
        self.gates = nn.ModuleList(FusedGate(decoder, level) for level in (4, 3, 2))
        self.laterals = nn.ModuleList(
            decoder.get_submodule(f"lateral_block{level}.conv") for level in (4, 3, 2)
        )
        last = submodule(decoder, "conv_out1.0", nn.Conv2d)
        wide = last.in_channels - decoder.ipt_blk1.conv_out.out_channels
        from_map, from_image = torch.split(last.weight, [wide, last.in_channels - wide], dim=1)
        self.last = make_convolution(from_map, None)
        self.full = ImageHead(decoder.ipt_blk1, from_image, last.get_parameter("bias"))

    def forward(self, image: Tensor, features: list[Tensor]) -> Tensor:
        *finer, x = features
        for level, block in enumerate(self.blocks):
            if level:
                lateral = self.laterals[level - 1](finer[-level])
                x = resize_like(self.gates[level - 1](x), lateral) + lateral
            x = block(torch.cat([x, self.images[level](image)], dim=1))
        # A 1x1 convolution commutes with a resize: of the map it leaves one channel to enlarge.
        logits: Tensor = resize_like(self.last(x), image) + self.full(image)
        return logits


class FusedDecoderBlock(nn.Module):
    def __init__(self, block: DecoderBlock) -> None:
        super().__init__()
        self.conv_in = fold_batch_norm(block.conv_in, block.bn_in)
        self.attention = FusedASPP(block.dec_att)
        self.conv_out = fold_batch_norm(block.conv_out, block.bn_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_out(self.attention(F.relu_(self.conv_in(x))))
        return out


class FusedASPP(nn.Module):
    """[B, inner, H, W] to the same shape; each branch is mixed in while it is computed."""

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        mix = fold_batch_norm(aspp.conv1, aspp.bn1)
        deforms = range(len(aspp.aspp_deforms))
        names = ["aspp1", *(f"aspp_deforms.{i}" for i in deforms)]
        branches = [submodule(aspp, name, ASPPBranch) for name in names]
        shares = mix.weight.flatten(1).chunk(len(branches) + 1, dim=1)
        self.branches = nn.ModuleList(
            fuse_branch(branch, share) for branch, share in zip(branches, shares[:-1], strict=True)
        )
        pool = fold_batch_norm(
            submodule(aspp, "global_avg_pool.1", nn.Conv2d),
            submodule(aspp, "global_avg_pool.2", nn.BatchNorm2d),
        )
        self.pool = DenseLayer(pool.weight.flatten(1), pool.bias, "relu")
        self.pooled = DenseLayer(shares[-1].contiguous(), mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        # The pooled branch is the same everywhere: a bias of the mixture.
        out = self.pooled(self.pool(x.mean(dim=(2, 3))))[:, None, None]  # [B, 1, 1, inner]
        for branch in self.branches:
            out = out + branch(x)
        return F.relu_(out).permute(0, 3, 1, 2)


def fuse_branch(branch: ASPPBranch, share: Tensor) -> nn.Module:
    """Return [B, inner, H, W] to the branch's part of the mixture [B, H, W, inner].

    `share` [inner, branch]: its weights in the mixing convolution.
    """
    conv = branch.atrous_conv
    if isinstance(conv, PlainConvolution):
        return FusedPlainBranch(conv, branch.bn, share)
    return FusedDeformableBranch(conv, branch.bn, share)


class FusedPlainBranch(nn.Module):
    def __init__(self, conv: PlainConvolution, norm: nn.BatchNorm2d, share: Tensor) -> None:
        super().__init__()
        self.conv = fold_batch_norm(conv.regular_conv, norm)
        self.mix = DenseLayer(share.contiguous(), None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(F.relu_(self.conv(x)).permute(0, 2, 3, 1))
        return out


class FusedDeformableBranch(nn.Module):
    def __init__(self, conv: DeformableConv, norm: nn.BatchNorm2d, share: Tensor) -> None:
        super().__init__()
        self.points = _join_predictors(conv.offset_conv, conv.modulator_conv)
        weight, bias = merge_norm(conv.regular_conv.weight, None, norm)
        # Doubled, since mask = 2 * sigmoid.
        self.taps = DenseLayer(2 * weight.permute(0, 2, 3, 1).flatten(1), bias, "relu")
        self.mix = DenseLayer(share.contiguous(), None)

    def forward(self, x: Tensor) -> Tensor:
        points = self.points(x).permute(0, 2, 3, 1)
        taps = points.shape[3] // 3
        points = torch.cat([points[..., : 2 * taps], points[..., 2 * taps :].sigmoid()], dim=3)
        return torch.cat([self.mix(self.taps(x)) for x in sample_bilinear(x, points)], dim=1)


class FusedImageBranch(nn.Module):
    def __init__(self, branch: ImageBranch) -> None:
        super().__init__()
        self.tiles = branch.tiles
        self.convs = nn.Sequential(branch.conv1, branch.conv_out)

    def forward(self, image: Tensor) -> Tensor:
        tiles = stack_tiles(image, self.tiles).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.convs(tiles)
        return out


class FusedGate(nn.Module):
    """A map times its gradient attention, one value per pixel."""

    def __init__(self, decoder: Decoder, level: int) -> None:
        super().__init__()
        self.gradient = fold_batch_norm(
            submodule(decoder, f"gdt_convs_{level}.0", nn.Conv2d),
            submodule(decoder, f"gdt_convs_{level}.1", nn.BatchNorm2d),
        )
        self.attention = decoder.get_submodule(f"gdt_convs_attn_{level}.0")

    def forward(self, x: Tensor) -> Tensor:
        attention: Tensor = self.attention(F.relu_(self.gradient(x)))
        return x * attention.sigmoid()


class ImageHead(nn.Module):
    """The image's part of the logits: two convolutions 3x3 and one 1x1, without activations.

    Together they are one convolution 5x5 to a single channel. Only the outermost pixels differ:
    outside the image the second convolution sees zeros instead of outputs of the first.
    """

    def __init__(self, branch: ImageBranch, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        last = torch.einsum("oc,cihw->oihw", weight[..., 0, 0], branch.conv_out.weight)
        last_bias = bias + weight[..., 0, 0] @ branch.conv_out.get_parameter("bias")
        self.first, self.second = branch.conv1, make_convolution(last, last_bias)
        whole = last.new_zeros(1, 3, 5, 5)
        for y, x in product(range(3), range(3)):
            taps = torch.einsum("i,ichw->chw", last[0, :, y, x], branch.conv1.weight)
            whole[0, :, y : y + 3, x : x + 3] += taps
        self.whole = make_convolution(
            whole, last_bias + last.sum((2, 3)) @ branch.conv1.get_parameter("bias")
        )

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.whole(image)
        out[:, :, :1] = self._convolve_twice(image[:, :, :3])[:, :, :1]
        out[:, :, -1:] = self._convolve_twice(image[:, :, -3:])[:, :, -1:]
        out[..., :1] = self._convolve_twice(image[..., :3])[..., :1]
        out[..., -1:] = self._convolve_twice(image[..., -3:])[..., -1:]
        return out

    def _convolve_twice(self, strip: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(strip))
        return out


def _join_predictors(offset: nn.Conv2d, modulator: nn.Conv2d) -> nn.Conv2d:
    """Return one convolution for offsets along y, along x, and modulators, in this order."""
    weight, bias = (
        torch.cat([offset.get_parameter(name)[0::2], offset.get_parameter(name)[1::2], last])
        for name, last in modulator.named_parameters()
    )
    return make_convolution(weight, bias)
