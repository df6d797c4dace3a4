"""Write random weights, as good as trained ones to measure time and memory.

python -m bgpipe.pipeline.bench.random_weights swin_v1_l FILE
"""

import sys

import torch
from safetensors.torch import save_file

from bgpipe.pipeline.networks.birefnet import create

OFFSET_SIGMA = 0.02
"""Yields offsets of some pixels, like trained weights."""

if __name__ == "__main__":
    backbone, path = sys.argv[1:]
    torch.manual_seed(0)
    network = create(backbone)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("offset_conv.weight"):
                weight.normal_(0, OFFSET_SIGMA)
    save_file(network.half().state_dict(), path)
