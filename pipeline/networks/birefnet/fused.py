"""BiRefNet rewritten for inference: the same logits in less time.

The plain network is trained, loaded and compared with the reference; engines run this one. Every
rewrite is exact up to rounding: batch norms are folded into the convolutions, once and in float32;
the wide maps of the ASPP's branches, and those of full size before the last convolution, are never
made; windows of attention use precomputed indices and biases.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet.decoder import ASPP, ImageBranch, resize_like
from bgpipe.pipeline.networks.birefnet.deform_conv import (
    GPU_VALUES,
    DeformableConv,
    sample_bilinear,
)
from bgpipe.pipeline.networks.birefnet.kernels import ModuleWithKernel, sample_points
from bgpipe.pipeline.networks.birefnet.layers import (
    make_convolution,
    make_dense,
    set_weights,
    submodule,
)
from bgpipe.pipeline.networks.birefnet.network import BiRefNet, check_size
from bgpipe.pipeline.networks.birefnet.swin import Swin

ALIGNMENT = 8  # tensor cores compute outputs of a convolution by so many


@torch.no_grad()
def fuse(network: BiRefNet, size: tuple[int, int]) -> FusedBiRefNet:
    """Return the network for inference on images of `size` (height, width), on the same device.

    `network` stays usable and shares memory with the result. Its weights must be float32; cast the
    result. Raises InvalidSize unless both sides are multiples of 32.
    """
    check_size(*size)
    with torch.device("meta"):
        fused = FusedBiRefNet(network.config)
    fused.load_state_dict(network.state_dict(), assign=True)
    fused.optimize(size)
    return fused.requires_grad_(requires_grad=False).eval()


def move(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Put the network on the device, its weights as `dtype`.

    Sampling points stay float32: half precision has eighths of a pixel at offsets of some pixels, bfloat16
    none. On a GPU, zeros are appended to their outputs up to a multiple of ALIGNMENT; a CPU would only
    get other last bits.
    """
    modules = network.modules()
    convs = [module.points for module in modules if isinstance(module, FusedDeformableBranch)]
    exact = [[parameter.data for parameter in conv.parameters()] for conv in convs]
    network.to(device, dtype)
    for conv, parameters in zip(convs, exact, strict=True):
        missing = 0 if device.type == "cpu" else -conv.out_channels % ALIGNMENT
        weight, bias = (
            torch.cat([each, each.new_zeros(missing, *each.shape[1:])]).to(device)
            for each in parameters
        )
        set_weights(conv, weight.contiguous(memory_format=torch.channels_last), bias)


class FusedBiRefNet(BiRefNet):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the logits, and those of a coarse matte [B, 1, H / 8, W / 8]."""
        image = image.contiguous(memory_format=torch.channels_last)
        x, coarse = self.encode_and_decode(image)
        # A 1x1 convolution commutes with a resize: of the map it leaves one channel to enlarge.
        logits: Tensor = resize_like(self.map_head(x), image) + self.image_head(image)
        return logits, coarse

    def optimize(self, size: tuple[int, int]) -> None:
        """Replace layers by equal ones that are faster for images of this size."""
        if isinstance(self.bb, Swin):
            self.bb.fix_sizes([size, (size[0] // 2, size[1] // 2)])
        fold_norms(self)
        for name, module in list(self.named_modules()):
            if isinstance(module, ASPP):
                self.set_submodule(name, FusedASPP(module))
        last = submodule(self.decoder, "conv_out1.0", nn.Conv2d)
        wide = last.in_channels - self.decoder.ipt_blk1.conv_out.out_channels
        from_map, from_image = torch.split(last.weight, [wide, last.in_channels - wide], dim=1)
        self.map_head = make_convolution(from_map, None)
        self.image_head = ImageHead(self.decoder.ipt_blk1, from_image, last.get_parameter("bias"))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                weight = module.weight.contiguous(memory_format=torch.channels_last)
                set_weights(module, weight, module.bias)


def fold_norms(network: nn.Module) -> None:
    """Fold each batch norm, as in eval mode, into the convolution registered before it.

    torch.nn.utils.fuse_conv_bn_weights does the same, with other last bits in every weight.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d):
            variance, mean = module.get_buffer("running_var"), module.get_buffer("running_mean")
            scale = module.weight / (variance + module.eps).sqrt()
            bias = module.bias - scale * mean
            if conv.bias is not None:
                bias = bias + scale * conv.bias
            set_weights(conv, conv.weight * scale.view(-1, 1, 1, 1), bias)
            network.set_submodule(name, nn.Identity())


class FusedASPP(nn.Module):
    """[B, inner, H, W] to the same shape; each branch is mixed in while it is computed.

    `aspp` has its norms folded.
    """

    def __init__(self, aspp: ASPP) -> None:
        super().__init__()
        convs = [branch.atrous_conv for branch in (aspp.aspp1, *aspp.aspp_deforms)]
        *shares, last = aspp.conv1.weight.flatten(1).chunk(len(convs) + 1, dim=1)
        self.branches = nn.ModuleList(
            FusedDeformableBranch(conv, share)
            if isinstance(conv, DeformableConv)
            else FusedPlainBranch(submodule(conv, "regular_conv", nn.Conv2d), share)
            for conv, share in zip(convs, shares, strict=True)
        )
        pool = submodule(aspp, "global_avg_pool.1", nn.Conv2d)
        self.pool = make_dense(pool.weight.flatten(1), pool.bias, "relu")
        self.pooled = make_dense(last.contiguous(), aspp.conv1.bias)

    def forward(self, x: Tensor) -> Tensor:
        # The pooled branch is the same everywhere: a bias of the mixture.
        out = self.pooled(self.pool(x.mean(dim=(2, 3))))[:, None, None]  # [B, 1, 1, inner]
        first = self.branches[0]
        exact = x.to(first.precision) if isinstance(first, FusedDeformableBranch) else x
        for branch in self.branches:
            out = out + branch(x, exact)
        return F.relu_(out).permute(0, 3, 1, 2)


class FusedPlainBranch(nn.Module):
    """[B, inner, H, W], twice, to the branch's part of the mixture [B, H, W, inner].

    The second, `exact`, is the same in the precision of sampling points. `share` [inner, branch]: its
    weights in the mixing convolution.
    """

    def __init__(self, conv: nn.Conv2d, share: Tensor) -> None:
        super().__init__()
        self.conv = conv
        self.mix = make_dense(share.contiguous(), None)

    def forward(self, x: Tensor, exact: Tensor) -> Tensor:
        del exact
        out: Tensor = self.mix(F.relu_(self.conv(x)).permute(0, 2, 3, 1))
        return out


class FusedDeformableBranch(ModuleWithKernel):
    """As FusedPlainBranch."""

    def __init__(self, conv: DeformableConv, share: Tensor) -> None:
        super().__init__()
        points = zip(conv.offset_conv.parameters(), conv.modulator_conv.parameters(), strict=True)
        # Offsets along y, those along x, and modulators.
        self.points = make_convolution(*(torch.cat([o[0::2], o[1::2], m]) for o, m in points))
        self.side = conv.regular_conv.kernel_size[0]
        weight, bias = conv.regular_conv.weight, conv.regular_conv.bias
        # Doubled, since mask = 2 * sigmoid.
        self.taps = make_dense(2 * weight.permute(0, 2, 3, 1).flatten(1), bias, "relu")
        self.mix = make_dense(share.contiguous(), None)

    @property
    def precision(self) -> torch.dtype:
        """That of the sampling points: see `move`."""
        return self.points.weight.dtype

    def forward(self, x: Tensor, exact: Tensor) -> Tensor:
        points, taps = self.points(exact).permute(0, 2, 3, 1), self.side**2
        sampled: Iterator[Tensor]
        if self.kernel:  # some images at a time
            count = max(1, GPU_VALUES // (taps * x[0].numel()))
            images, dim = torch.split(x.permute(0, 2, 3, 1), count), 0
            parts = zip(images, torch.split(points, count), strict=True)
            sampled = (sample_points(*part, self.side) for part in parts)
        else:  # some lines
            mask, dim = points[..., 2 * taps : 3 * taps].sigmoid(), 1
            sampled = sample_bilinear(x, torch.cat([points[..., : 2 * taps], mask], dim=3))
        return torch.cat([self.mix(self.taps(part)) for part in sampled], dim=dim)


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
        for dim, side in product((2, 3), (0, -1)):
            strip = image.narrow(dim, 0 if side == 0 else -3, 3)
            border = self.second(self.first(strip)).select(dim, side)
            out.select(dim, side).copy_(border)
        return out
