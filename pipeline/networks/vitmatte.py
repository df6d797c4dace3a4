"""ViTMatte: the alpha of a soft edge, from the pixels of the full size and a trimap.

J. Yao et al., ViTMatte: Boosting Image Matting with Pretrained Plain Vision Transformers, 2023
(arXiv:2305.15272). The network is transformers' own; only its weights come from elsewhere.

Checkpoints of transformers' VitMatteForImageMatting, as safetensors alone.

A repository's config.json is not fetched: the configuration is read from the shapes, and weights
that do not fit exactly are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile

import torch
from torch import Tensor, nn
from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting

from bgpipe.pipeline.errors import ModelUnavailable
from bgpipe.pipeline.networks.birefnet.checkpoint import InvalidWeights, read
from bgpipe.pipeline.types import ResolvedModel

PATCHES = "backbone.embeddings.projection.weight"
POSITIONS = "backbone.embeddings.position_embeddings"
LAYER = "backbone.encoder.layer."
DISTANCES = ".attention.rel_pos_h"

Shapes = Mapping[str, tuple[int, ...]]


def load(model: ResolvedModel, dtype: torch.dtype) -> nn.Module:
    """Return the network on the CPU, in eval mode and without gradients, its weights as `dtype`.

    Raises ModelUnavailable when the file holds anything but a ViTMatte with finite weights.
    """
    try:
        return assemble(read(model.path), dtype)
    except InvalidWeights as error:
        raise ModelUnavailable(f"not the weights of a ViTMatte: {model.path}: {error}") from error


def assemble(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Build the network that `tensors` fit and give it copies of them as `dtype`."""
    if broken := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise InvalidWeights(f"infinite or no numbers: {broken[0]}")
    config = infer_config({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    state = {
        key: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        for key, tensor in tensors.items()
    }
    with torch.device("meta"):  # no memory or time for weights that are replaced at once
        network: nn.Module = VitMatteForImageMatting(config)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InvalidWeights(" ".join(str(error).split())) from error
    return network.eval().requires_grad_(requires_grad=False)


def infer_config(shapes: Shapes) -> VitMatteConfig:
    """Read the configuration from the shapes of a state dict."""
    try:
        return _config_of(shapes)
    except KeyError as error:
        raise InvalidWeights(f"no tensor {error.args[0]}") from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise InvalidWeights(f"impossible shapes: {error}") from error


def _config_of(shapes: Shapes) -> VitMatteConfig:
    width, channels, patch, _ = shapes[PATCHES]
    pretrained = round((shapes[POSITIONS][1] - 1) ** 0.5)  # one position belongs to no patch
    spans, per_head = _attention(shapes)
    grid = spans[-1]  # the last layer sees the whole image, others perhaps a window of it
    windows = [i for i, span in enumerate(spans) if span != grid]
    backbone = VitDetConfig(
        hidden_size=width,
        num_hidden_layers=len(spans),
        num_attention_heads=width // per_head,
        mlp_ratio=shapes[f"{LAYER}0.mlp.fc1.weight"][0] // width,
        image_size=grid * patch,
        pretrain_image_size=pretrained * patch,
        patch_size=patch,
        num_channels=channels,
        window_block_indices=windows,
        window_size=spans[windows[0]] if windows else 0,
        residual_block_indices=[
            i for i in range(len(spans)) if f"{LAYER}{i}.residual.conv1.weight" in shapes
        ],
        use_relative_position_embeddings=True,
        out_features=[f"stage{len(spans)}"],  # type: ignore[call-arg]  # taken out of **kwargs
    )
    return VitMatteConfig(
        backbone_config=backbone,
        hidden_size=width,
        convstream_hidden_sizes=_rows(shapes, "decoder.convstream.convs.", ".conv.weight"),
        fusion_hidden_sizes=_rows(shapes, "decoder.fusion_blocks.", ".conv.conv.weight"),
    )


def _attention(shapes: Shapes) -> tuple[list[int], int]:
    """How many patches each layer sees along an axis, and the width of a head.

    A table of relative positions has a row for each distance, from -(n - 1) to n - 1.
    """
    distances = _rows(shapes, LAYER, DISTANCES)
    return [(rows + 1) // 2 for rows in distances], shapes[f"{LAYER}0{DISTANCES}"][1]


def _rows(shapes: Shapes, before: str, after: str) -> list[int]:
    """The first sides of before0after, before1after, ... without a gap."""
    keys = (f"{before}{i}{after}" for i in count())
    return [shapes[key][0] for key in takewhile(shapes.__contains__, keys)]
