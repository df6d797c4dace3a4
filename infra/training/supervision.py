"""Losses on the network's output and on its three coarser maps."""

from __future__ import annotations

import threading
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bgpipe.pipeline.networks.birefnet import BiRefNet

LEVELS = (4, 3, 2)  # decoder blocks, coarse to fine
COARSE_WEIGHT = 0.3
EDGE_WEIGHT = 2.0
STRUCTURE_WEIGHT = 0.5
STRUCTURE_SIDE = 8  # pixels of an SSIM window
STRUCTURE_STEP = 4  # pixels between windows


class Supervision:
    """The loss of a network. Threads may share it."""

    def __init__(self, network: BiRefNet) -> None:
        self._network = network
        self._coarse = threading.local()
        for level in LEVELS:
            head = network.decoder.get_submodule(f"conv_ms_spvn_{level}")
            block = network.decoder.get_submodule(f"decoder_block{level}")
            block.register_forward_hook(partial(self._collect, head))

    def __call__(self, image: Tensor, alpha: Tensor) -> Tensor:
        """Return the mean loss: image [B,3,H,W] normalised, alpha [B,1,H,W] in [0,1]."""
        self._coarse.logits = []
        total = matte_loss(self._network(image), alpha)
        for level in self._coarse.logits:
            small = F.interpolate(alpha, size=level.shape[2:], mode="area")
            total = total + COARSE_WEIGHT * matte_loss(level, small)
        return total

    def _collect(
        self, head: nn.Module, _block: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor
    ) -> None:
        self._coarse.logits.append(head(output))


def matte_loss(logits: Tensor, alpha: Tensor) -> Tensor:
    """Return cross entropy, absolute error, edge error, soft IoU and SSIM loss, weighted and summed."""
    matte = logits.sigmoid()
    error = matte - alpha
    pixels = F.binary_cross_entropy_with_logits(logits, alpha) + error.abs().mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    smooth = 0.005 * alpha[0].numel()  # else one pixel dominates an empty image
    both = (matte * alpha).sum(dim=(1, 2, 3))
    either = (matte + alpha - matte * alpha).sum(dim=(1, 2, 3))
    overlap = (1 - (both + smooth) / (either + smooth)).mean()
    structure = structure_loss(matte, alpha)
    return pixels + EDGE_WEIGHT * edges + overlap + STRUCTURE_WEIGHT * structure


def structure_loss(matte: Tensor, alpha: Tensor) -> Tensor:
    """Return 1 - SSIM (Wang et al. 2004, equation 13) over square windows; 0 for smaller maps."""
    if min(matte.shape[2:]) < STRUCTURE_SIDE:
        return matte.new_zeros(())
    pair = torch.cat([matte, alpha, matte * matte, alpha * alpha, matte * alpha], dim=1)
    x, y, xx, yy, xy = F.avg_pool2d(pair, STRUCTURE_SIDE, STRUCTURE_STEP).unbind(dim=1)
    means = (2 * x * y + 0.01**2) / (x * x + y * y + 0.01**2)
    spreads = (2 * (xy - x * y) + 0.03**2) / (xx - x * x + yy - y * y + 0.03**2)
    return (1 - means * spreads).mean()
