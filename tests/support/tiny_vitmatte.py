"""A ViTMatte so small that it takes no time; its weights are random, its alpha is not constant."""

from __future__ import annotations

import torch
from safetensors.torch import save
from torch import nn
from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting


def tiny_vitmatte(seed: int = 0) -> VitMatteForImageMatting:
    """Layers with windows and without, with residual blocks and without, as the released ones."""
    torch.manual_seed(seed)
    backbone = VitDetConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        pretrain_image_size=32,
        num_channels=4,
        window_size=3,
        window_block_indices=[0, 2],
        residual_block_indices=[1, 3],
        use_relative_position_embeddings=True,
        out_features=["stage4"],
    )
    network = VitMatteForImageMatting(
        VitMatteConfig(
            backbone_config=backbone,
            hidden_size=32,
            convstream_hidden_sizes=[4, 8, 8],
            fusion_hidden_sizes=[16, 8, 8, 4],
        )
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # transformers makes them next to nothing
            nn.init.ones_(module.weight)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            # Like a trained one it looks more at what is near than at what is far.
            gain = 1.5 if isinstance(module, nn.Conv2d) else 0.5
            nn.init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5)
    return network.eval()


def saved(network: nn.Module) -> bytes:
    return save({key: value.contiguous() for key, value in network.state_dict().items()})
