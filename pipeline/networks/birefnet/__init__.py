"""BiRefNet in plain torch: build a network from a configuration, or by its name."""

from bgpipe.pipeline.networks.birefnet.config import CONFIGS as CONFIGS
from bgpipe.pipeline.networks.birefnet.config import EfficientNetConfig as EfficientNetConfig
from bgpipe.pipeline.networks.birefnet.config import ModelConfig as ModelConfig
from bgpipe.pipeline.networks.birefnet.config import SwinConfig as SwinConfig
from bgpipe.pipeline.networks.birefnet.network import BiRefNet as BiRefNet
from bgpipe.pipeline.networks.birefnet.network import InvalidSize as InvalidSize


def build(config: ModelConfig) -> BiRefNet:
    """Return a network with random weights, in eval mode."""
    return BiRefNet(config).eval()


def create(name: str) -> BiRefNet:
    """Return the network called `name` in `CONFIGS` with random weights, in eval mode."""
    return build(CONFIGS[name])
