"""ViTMatte: the alpha of a soft edge, from the pixels of the full size and a trimap.

J. Yao et al., ViTMatte: Boosting Image Matting with Pretrained Plain Vision Transformers, 2023
(arXiv:2305.15272). The network is transformers' VitMatteForImageMatting, its checkpoint a
safetensors file. Instead of reading a config.json, the configuration is inferred from the shapes;
weights that do not fit exactly are refused.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting

from bgpipe.pipeline.errors import ModelUnavailable
from bgpipe.pipeline.networks.birefnet.checkpoint import (
    InvalidWeights,
    Shapes,
    list_shapes,
    load_state,
    read,
    refusing_shapes,
)
from bgpipe.pipeline.types import ResolvedModel

PATCHES = "backbone.embeddings.projection.weight"
POSITIONS = "backbone.embeddings.position_embeddings"
LAYER = "backbone.encoder.layer."
DISTANCES = ".attention.rel_pos_h"


def load(model: ResolvedModel, dtype: torch.dtype) -> nn.Module:
    """Return the network on the CPU, in eval mode and without gradients, its weights as `dtype`.

    Raises ModelUnavailable unless the file holds a ViTMatte with finite weights.
    """
    try:
        return assemble(read(model.path), dtype)
    except InvalidWeights as error:
        raise ModelUnavailable(f"not the weights of a ViTMatte: {model.path}: {error}") from error


def assemble(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Build the network that `tensors` fit, with copies of them as `dtype`."""
    config = infer_config({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    state = {
        key: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        for key, tensor in tensors.items()
    }
    with torch.device("meta"):  # saves memory and time for weights that are replaced at once
        network: nn.Module = VitMatteForImageMatting(config)
    return load_state(network, state)


@refusing_shapes()
def infer_config(shapes: Shapes) -> VitMatteConfig:
    """Infer the configuration from the shapes of a state dict."""
    width, channels, patch, _ = shapes[PATCHES]
    pretrained = round((shapes[POSITIONS][1] - 1) ** 0.5)  # one position is not a patch
    per_head = shapes[f"{LAYER}0{DISTANCES}"][1]
    # Of n patches along an axis, a table has a row for each distance, from -(n - 1) to n - 1.
    spans = [(rows + 1) // 2 for rows in _list_rows(shapes, LAYER, DISTANCES)]
    grid = spans[-1]  # the last layer attends to the whole image, others perhaps to a window
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
        convstream_hidden_sizes=_list_rows(shapes, "decoder.convstream.convs.", ".conv.weight"),
        fusion_hidden_sizes=_list_rows(shapes, "decoder.fusion_blocks.", ".conv.conv.weight"),
    )


def _list_rows(shapes: Shapes, before: str, after: str) -> list[int]:
    return [shape[0] for shape in list_shapes(shapes, before, after)]
