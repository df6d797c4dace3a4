"""BiRefNet in plain torch: build a network from a configuration, or by its name."""

from __future__ import annotations

from bgpipe.pipeline.networks.birefnet.config import (
    CONFIGS,
    EfficientNetConfig,
    ModelConfig,
    SwinConfig,
)
from bgpipe.pipeline.networks.birefnet.network import BiRefNet, InvalidSize

__all__ = [
    "CONFIGS",
    "BiRefNet",
    "EfficientNetConfig",
    "InvalidSize",
    "ModelConfig",
    "SwinConfig",
    "build",
    "create",
]


def build(config: ModelConfig) -> BiRefNet:
    """Return a network with random weights, in eval mode."""
    return BiRefNet(config).eval()


def create(name: str) -> BiRefNet:
    """Return the network called `name` in `CONFIGS` with random weights, in eval mode."""
    return build(CONFIGS[name])
