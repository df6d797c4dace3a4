"""Checkpoints: from a safetensors file to a BiRefNet that is ready to run.

Released checkpoints hold more than inference needs and do not state their configuration, which is
inferred from the shapes. A checkpoint that does not fit exactly is refused.
"""

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from itertools import count, groupby, takewhile
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bgpipe.pipeline.errors import ModelUnavailable
from bgpipe.pipeline.networks.birefnet.config import EfficientNetConfig, ModelConfig, SwinConfig
from bgpipe.pipeline.networks.birefnet.decoder import TILES
from bgpipe.pipeline.networks.birefnet.network import BiRefNet
from bgpipe.pipeline.networks.birefnet.swin import relative_position_index
from bgpipe.pipeline.types import PatchOrder, ResolvedModel

Network = TypeVar("Network", bound=nn.Module)
Shapes = Mapping[str, tuple[int, ...]]
"""Of a state dict's tensors."""

WRAPPERS = ("module.", "_orig_mod.")  # prefixes from data parallelism and compilation
TRAINING_ONLY = ("decoder.conv_ms_spvn_", "decoder.gdt_convs_pred_")
COUNTER = ".num_batches_tracked"
POSITION_INDEX = ".relative_position_index"
LISTED_KEYS = 3

NOBG = "bb.swin."  # prefix that only nobg's names have
NOBG_UNUSED = {"bb.swin.layernorm.weight", "bb.swin.layernorm.bias"}  # by no forward pass
NOBG_PARTS: Mapping[str, str] = {
    "bb.swin.embeddings.patch_embeddings.projection.": "bb.patch_embed.proj.",
    "bb.swin.embeddings.norm.": "bb.patch_embed.norm.",
    "bb.swin.encoder.layers.": "bb.layers.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".attention.o_proj.": ".attn.proj.",
    ".attention.relative_position_bias.": ".attn.",
    **{f"bb.hidden_states_norms.stage{i + 1}.": f"bb.norm{i}." for i in range(4)},
    **{f"decoder.ipt_blks.{5 - n}.": f"decoder.ipt_blk{n}." for n in (5, 4, 3, 2, 1)},
    **{f"decoder.decoder_blocks.{4 - n}.": f"decoder.decoder_block{n}." for n in (4, 3, 2, 1)},
    **{f"decoder.lateral_blocks.{4 - n}.": f"decoder.lateral_block{n}." for n in (4, 3, 2)},
    **{
        f"decoder.{name}.{4 - n}.": f"decoder.{name}_{n}."
        for name in ("gdt_convs", "gdt_convs_attn", "gdt_convs_pred", "conv_ms_spvn")
        for n in (4, 3, 2)
    },
}
"""Parts of the names of nobg (github.com/feyninc/nobg), whose backbone is transformers' Swin, and the
released ones."""


class InvalidWeights(ValueError):
    """The file or its tensors are not a network."""


def load(model: ResolvedModel, dtype: torch.dtype = torch.float32) -> BiRefNet:
    """Return the network on the CPU, in eval mode and without gradients, its weights as `dtype`.

    Raises ModelUnavailable unless the file holds a BiRefNet with finite weights.
    """
    try:
        return assemble(read(model.path), model.patch_order, dtype)
    except InvalidWeights as error:
        raise ModelUnavailable(f"not the weights of a BiRefNet: {model.path}: {error}") from error


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; other formats may hold code and are refused."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        detail = f"cannot be read as safetensors: {error}: convert other formats first"
        raise InvalidWeights(detail) from error


def assemble(
    tensors: Mapping[str, Tensor], patch_order: PatchOrder, dtype: torch.dtype
) -> BiRefNet:
    """Build the network that `tensors` fit, with copies of them as `dtype`."""
    tensors = {_unwrap(key): tensor for key, tensor in tensors.items()}
    if any(key.startswith(NOBG) for key in tensors):
        tensors = to_released_names(tensors)
    config = infer_config({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    with torch.device("meta"):  # saves memory and time for weights that are replaced at once
        network = BiRefNet(config)
    template = network.state_dict()
    _check_keys(tensors.keys(), template.keys())
    for key, tensor in tensors.items():
        if tensor.shape != template[key].shape:
            expected = tuple(template[key].shape)
            raise InvalidWeights(f"shape of {key}: {tuple(tensor.shape)}, expected {expected}")
    if patch_order is PatchOrder.LEGACY:
        tensors = to_current_order(tensors)
    state = {key: _convert(key, tensors.get(key), like, dtype) for key, like in template.items()}
    return load_state(network, state)


def load_state(network: Network, state: Mapping[str, Tensor]) -> Network:
    """Load `state` into a network made on the meta device, and return it in eval mode.

    Raises InvalidWeights unless every tensor is finite and they fit exactly.
    """
    if broken := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        first = state[broken[0]].dtype
        raise InvalidWeights(f"NaN or infinity in: {_list_some(broken)} as {first}")
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InvalidWeights(" ".join(str(error).split())) from error
    return network.eval().requires_grad_(requires_grad=False)


@contextmanager
def refusing_shapes() -> Iterator[None]:
    """Raise InvalidWeights for a tensor that is missing or a shape that is impossible."""
    try:
        yield
    except KeyError as error:
        raise InvalidWeights(f"tensor missing: {error.args[0]}") from error
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise InvalidWeights(f"impossible shapes: {error}") from error


@refusing_shapes()
def infer_config(shapes: Shapes) -> ModelConfig:
    """Infer the configuration from the shapes of a state dict."""
    is_lite = "bb._conv_stem.weight" in shapes
    backbone = _infer_efficientnet(shapes) if is_lite else _infer_swin(shapes)
    aspp, conv = "squeeze_module.0.dec_att.", ".atrous_conv.regular_conv.weight"
    branches = list_shapes(shapes, f"{aspp}aspp_deforms.", conv)
    return ModelConfig(
        backbone=backbone,
        inner=shapes["squeeze_module.0.conv_in.weight"][0],
        branch=shapes[f"{aspp}aspp1{conv}"][0],
        kernels=tuple(shape[-1] for shape in branches),
        deformable=f"{aspp}aspp1.atrous_conv.offset_conv.weight" in shapes,
        image_inner=shapes["decoder.ipt_blk1.conv1.weight"][0],
        image_divisor=2 * backbone.stages[3] // shapes["decoder.ipt_blk5.conv_out.weight"][0],
        gate=shapes["decoder.gdt_convs_4.0.weight"][0],
    )


def to_released_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a nobg checkpoint, and join its queries, keys and values.

    Raises InvalidWeights for two tensors of one name, or a group that is incomplete or unequal.
    """
    named: dict[str, Tensor] = {}
    for key in sorted(tensors.keys() - NOBG_UNUSED):
        name = key
        for theirs, released in NOBG_PARTS.items():
            name = name.replace(theirs, released)
        if name in named:
            raise InvalidWeights(f"two tensors of one name: {name}")
        named[name] = tensors[key]
    for query in [name for name in named if ".attention.q_proj." in name]:
        group = [query.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if missing := [name for name in group if name not in named]:
            raise InvalidWeights(f"tensors missing: {_list_some(missing)}")
        parts = [named.pop(name) for name in group]
        if any(part.shape != parts[0].shape or not part.ndim for part in parts):
            raise InvalidWeights(f"shapes differ: {_list_some(group)}")
        named[query.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return named


def to_current_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Permute the image branches' inputs from (column, row, color) to (color, row, column)."""
    converted = dict(tensors)
    for level, tiles in TILES.items():
        key = f"decoder.ipt_blk{level}.conv1.weight"
        weight = tensors[key]
        legacy = weight.reshape(len(weight), tiles, tiles, 3, *weight.shape[2:])
        converted[key] = legacy.permute(0, 3, 2, 1, 4, 5).reshape(weight.shape)
    return converted


def list_shapes(shapes: Shapes, before: str, after: str) -> list[tuple[int, ...]]:
    """Return the shapes of before0after, before1after, ... up to the first gap."""
    keys = (f"{before}{i}{after}" for i in count())
    return [shapes[key] for key in takewhile(shapes.__contains__, keys)]


def _unwrap(key: str) -> str:
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def _infer_swin(shapes: Shapes) -> SwinConfig:
    embed = shapes["bb.patch_embed.proj.weight"][0]
    stages = [f"bb.layers.{i}.blocks." for i in range(4)]
    rows, heads = zip(
        *(shapes[f"{stage}0.attn.relative_position_bias_table"] for stage in stages), strict=True
    )
    return SwinConfig(
        embed=embed,
        depths=tuple(len(list_shapes(shapes, stage, ".norm1.weight")) for stage in stages),
        heads=heads,
        window=(round(rows[0] ** 0.5) + 1) // 2,
    )


def _infer_efficientnet(shapes: Shapes) -> EfficientNetConfig:
    """Infer the stages: each ends where the channels change."""
    blocks = list_shapes(shapes, "bb._blocks.", "._project_conv.weight")
    stages = ((width, len(list(same))) for width, same in groupby(shape[0] for shape in blocks))
    widths, depths = zip(*stages, strict=True)
    return EfficientNetConfig(widths=widths, depths=depths, stem=shapes["bb._conv_stem.weight"][0])


def _check_keys(keys: Set[str], known: Set[str]) -> None:
    optional = {
        k for k in known if k.startswith(TRAINING_ONLY) or k.endswith((COUNTER, POSITION_INDEX))
    }
    if missing := sorted(known - keys - optional):
        raise InvalidWeights(f"tensors missing: {_list_some(missing)}")
    if unknown := sorted(keys - known):
        raise InvalidWeights(f"unknown tensors: {_list_some(unknown)}")


def _list_some(keys: list[str]) -> str:
    more = f" and {len(keys) - LISTED_KEYS} more" if len(keys) > LISTED_KEYS else ""
    return ", ".join(keys[:LISTED_KEYS]) + more


def _convert(key: str, tensor: Tensor | None, like: Tensor, dtype: torch.dtype) -> Tensor:
    if key.endswith(POSITION_INDEX):
        return relative_position_index(round(len(like) ** 0.5))
    if key.endswith(COUNTER) or tensor is None:
        return torch.zeros(like.shape, dtype=like.dtype if key.endswith(COUNTER) else dtype)
    # A copy: a tensor is a view of its file, which may be replaced while the worker runs.
    return tensor.to(dtype, copy=True)
