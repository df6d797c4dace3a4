"""The losses, on the network's result and on its three coarser maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.model import BiRefNet

LEVELS = (4, 3, 2)  # decoder blocks, coarse to fine
COARSE_WEIGHT = 0.3
EDGE_WEIGHT = 2.0


@contextmanager
def coarse_logits(network: BiRefNet) -> Iterator[list[Tensor]]:
    """Collects the logits of the decoder's coarser maps, [B,1,h,w] each, during a forward pass."""
    collected: list[Tensor] = []

    def watch(level: int) -> torch.utils.hooks.RemovableHandle:
        head = network.decoder.get_submodule(f"conv_ms_spvn_{level}")

        def collect(_block: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            collected.append(head(output))

        return network.decoder.get_submodule(f"decoder_block{level}").register_forward_hook(collect)

    handles = [watch(level) for level in LEVELS]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def loss_of(network: BiRefNet, image: Tensor, alpha: Tensor) -> Tensor:
    """Mean loss of a batch: image [B,3,H,W] normalised, alpha [B,1,H,W] in [0,1]."""
    with coarse_logits(network) as coarse:
        logits = network(image)
    total = matte_loss(logits.float(), alpha)
    for level in coarse:
        small = F.interpolate(alpha, size=level.shape[2:], mode="area")
        total = total + COARSE_WEIGHT * matte_loss(level.float(), small)
    return total


def matte_loss(logits: Tensor, alpha: Tensor) -> Tensor:
    """Cross entropy per pixel, soft IoU per image, and the difference of neighbouring pixels."""
    matte = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, alpha)
    return entropy + soft_iou_loss(matte, alpha) + EDGE_WEIGHT * edge_loss(matte, alpha)


def soft_iou_loss(matte: Tensor, alpha: Tensor) -> Tensor:
    """1 - IoU with products for intersections; an empty image asks for an empty matte."""
    smooth = 0.005 * alpha[0].numel()  # else one pixel decides on the loss of an empty image
    both = (matte * alpha).sum(dim=(1, 2, 3))
    either = (matte + alpha - matte * alpha).sum(dim=(1, 2, 3))
    return (1 - (both + smooth) / (either + smooth)).mean()


def edge_loss(matte: Tensor, alpha: Tensor) -> Tensor:
    error = matte - alpha
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
