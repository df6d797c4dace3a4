"""Random weights under the public names of the registry's networks, with so few channels that they take no time."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from bgpipe.pipeline.networks.birefnet import CONFIGS, BiRefNet, ModelConfig, SwinConfig, build

NOBG_NAMES = (
    (r"bb\.patch_embed\.proj", "bb.swin.embeddings.patch_embeddings.projection"),
    (r"bb\.patch_embed\.norm", "bb.swin.embeddings.norm"),
    (r"bb\.layers", "bb.swin.encoder.layers"),
    (r"(blocks\.\d+)\.norm1", r"\1.layernorm_before"),
    (r"(blocks\.\d+)\.norm2", r"\1.layernorm_after"),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.(relative_position_bias)", r".attention.\1.\1"),
)
"""From the released names, in the words of github.com/feyninc/nobg and of transformers' `SwinBackbone`."""


def tiny_network(backbone: str, seed: int = 0) -> BiRefNet:
    """The named network's depths, with random values also in what is trained to be 1 or 0."""
    swin = CONFIGS[backbone].backbone
    config = ModelConfig(
        backbone=SwinConfig(embed=8, depths=swin.depths, heads=(1, 2, 4, 8), window=4),
        inner=4,
        branch=4,
        kernels=(3,),
        image_inner=2,
        image_divisor=4,
        gate=2,
    )
    torch.manual_seed(seed)
    network = build(config)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 0.6)
            tensor.mul_(torch.randint(0, 2, tensor.shape) * 2 - 1 if tensor.ndim > 1 else 1)
    return network


def to_nobg_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and split a state dict as nobg saves it, with the norm that no forward pass uses."""
    split = {}
    for key, tensor in state.items():
        if "attn.qkv" in key:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                split[key.replace("attn.qkv", f"attention.{name}_proj")] = part
        elif not key.endswith("relative_position_index"):
            split[key] = tensor
    channels = len(split["bb.norm3.weight"])
    unused = {f"bb.swin.layernorm.{name}": torch.ones(channels) for name in ("weight", "bias")}
    return unused | {_to_nobg_name(key): tensor.contiguous() for key, tensor in split.items()}


def _to_nobg_name(key: str) -> str:
    for pattern, name in NOBG_NAMES:
        key = re.sub(pattern, name, key)
    key = re.sub(r"^bb\.norm(\d)", lambda m: f"bb.hidden_states_norms.stage{int(m[1]) + 1}", key)
    key = re.sub(r"\.ipt_blk(\d)", lambda m: f".ipt_blks.{5 - int(m[1])}", key)
    key = re.sub(r"\.(decoder|lateral)_block(\d)", lambda m: f".{m[1]}_blocks.{4 - int(m[2])}", key)
    return re.sub(r"_([234])\.", lambda m: f".{4 - int(m[1])}.", key)
