from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers.models.swin.modeling_swin import SwinBackbone

from bgpipe.pipeline.errors import ModelUnavailable
from bgpipe.pipeline.networks.birefnet import CONFIGS, BiRefNet, ModelConfig, SwinConfig, build
from bgpipe.pipeline.networks.birefnet.checkpoint import infer_config, load
from bgpipe.pipeline.types import PatchOrder, ResolvedModel

from ....support.birefnet_weights import tiny_network, to_nobg_names
from .test_network import CONVOLUTIONS

TINY = ModelConfig(
    backbone=SwinConfig(embed=8, depths=(1, 2, 3, 1), heads=(1, 2, 4, 8), window=4),
    inner=6,
    branch=10,
    kernels=(1, 5),
    image_inner=5,
    image_divisor=4,
    gate=3,
)
State = dict[str, Tensor]


@pytest.fixture
def network() -> BiRefNet:
    torch.manual_seed(0)
    return build(TINY)


def load_state(
    folder: Path,
    state: State,
    dtype: torch.dtype = torch.float32,
    order: PatchOrder = PatchOrder.CURRENT,
) -> BiRefNet:
    path = folder / "model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return load(ResolvedModel("tiny", path, "", (64, 64), order), dtype)


def logits(network: BiRefNet) -> Tensor:
    random = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        out: Tensor = network(torch.randn(1, 3, 64, 64, generator=random))
    return out


def test_a_loaded_network_gives_the_saved_ones_logits(network: BiRefNet, tmp_path: Path) -> None:
    loaded = load_state(tmp_path, network.state_dict())
    assert loaded.config == TINY
    assert logits(loaded).equal(logits(network))
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    "config",
    [*CONFIGS.values(), CONVOLUTIONS],
    ids=[*CONFIGS, "convolutions"],
)
def test_the_configuration_is_read_from_the_shapes(config: ModelConfig) -> None:
    with torch.device("meta"):
        state = build(config).state_dict()
    assert infer_config({key: tuple(t.shape) for key, t in state.items()}) == config


def test_what_only_training_needs_may_be_absent(network: BiRefNet, tmp_path: Path) -> None:
    absent = ("conv_ms_spvn", "gdt_convs_pred", "num_batches_tracked", "position_index")
    state = {k: v for k, v in network.state_dict().items() if not any(part in k for part in absent)}
    loaded = load_state(tmp_path, state)
    assert logits(loaded).equal(logits(network))
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_before_the_keys_are_taken_off(
    prefix: str, network: BiRefNet, tmp_path: Path
) -> None:
    state = {prefix + key: tensor for key, tensor in network.state_dict().items()}
    assert logits(load_state(tmp_path, state)).equal(logits(network))


def test_half_precision_files_become_the_type_asked_for(network: BiRefNet, tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    single = load_state(tmp_path, half)
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert {p.dtype for p in load_state(tmp_path, half, torch.bfloat16).parameters()} == {
        torch.bfloat16
    }
    torch.testing.assert_close(logits(single), logits(network), atol=0.05, rtol=0)


def test_a_legacy_checkpoint_is_permuted(network: BiRefNet, tmp_path: Path) -> None:
    state = network.state_dict()
    legacy = {**state}
    for level, tiles in ((5, 32), (4, 16), (3, 8), (2, 4)):
        key = f"decoder.ipt_blk{level}.conv1.weight"
        legacy[key] = torch.empty_like(state[key])
        for colour in range(3):
            for row in range(tiles):
                for column in range(tiles):
                    old = (column * tiles + row) * 3 + colour
                    legacy[key][:, old] = state[key][:, (colour * tiles + row) * tiles + column]
    assert logits(load_state(tmp_path, legacy, order=PatchOrder.LEGACY)).equal(logits(network))
    assert not logits(load_state(tmp_path, legacy)).allclose(logits(network), atol=1e-3)


def without(key: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if not k.startswith(key)}


def having(key: str, value: Tensor) -> Callable[[State], State]:
    return lambda state: state | {key: value}


def test_a_checkpoint_of_nobg_gives_the_networks_logits(tmp_path: Path) -> None:
    network = tiny_network("swin_v1_l_24")
    loaded = load_state(tmp_path, to_nobg_names(network.state_dict()))
    assert loaded.config == network.config
    assert logits(loaded).equal(logits(network))


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_its_backbone_computes_what_transformers_does(
    size: tuple[int, int], tmp_path: Path
) -> None:
    network = tiny_network("swin_v1_l_24")
    swin = network.config.backbone
    reference = SwinBackbone(
        transformers.SwinConfig(
            embed_dim=8,
            depths=list(swin.depths),
            num_heads=[1, 2, 4, 8],
            window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
    ).eval()
    state = to_nobg_names(network.state_dict())
    backbone = {k.removeprefix("bb."): v for k, v in state.items() if k.startswith("bb.")}
    reference.load_state_dict(backbone)  # strict: these are its names
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(image).feature_maps
        (maps,) = load_state(tmp_path, state).bb([image])
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("bb.swin.encoder.layers.2.blocks.9.attention.k_proj.bias"), "missing: .*k_proj"),
        (without("bb.hidden_states_norms.stage1"), "missing: bb.norm0.bias, bb.norm0.weight"),
        (without("decoder.ipt_blks.4"), "tensor missing: decoder.ipt_blk1"),
        (having("bb.swin.pooler.weight", torch.zeros(1)), "unknown tensors: bb.swin.pooler"),
        (
            having("bb.layers.0.blocks.0.norm1.weight", torch.zeros(8)),
            "two tensors of one name: bb.layers",
        ),
        (
            having("decoder.ipt_blk1.conv1.weight", torch.zeros(1)),
            "two tensors of one name: decoder.ipt_blk1",
        ),
        (having("decoder.ipt_blks.5.conv1.bias", torch.zeros(1)), "unknown .*: decoder.ipt_blks.5"),
        (
            having("bb.swin.encoder.layers.0.blocks.1.attention.v_proj.bias", torch.zeros(9)),
            "shapes differ: .*q_proj.bias",
        ),
        (
            having("bb.swin.encoder.layers.0.blocks.1.attention.q_proj.bias", torch.zeros(())),
            "shapes differ: .*q_proj.bias",
        ),
    ],
)
def test_a_checkpoint_of_nobg_that_does_not_fit_is_refused_by_name(
    change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    state = to_nobg_names(tiny_network("swin_v1_l_24").state_dict())
    with pytest.raises(ModelUnavailable, match=message):
        load_state(tmp_path, change(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("bb.layers.1.blocks.0.attn.qkv.weight"), "missing: bb.layers.1.blocks.0.attn.qkv"),
        (without("decoder.gdt_convs_4"), "tensor missing: decoder.gdt_convs_4.0.weight"),
        (without("bb."), "tensor missing: bb.patch_embed.proj.weight"),
        (without("decoder.decoder_block"), r"missing: .*, .*, .* and \d+ more"),
        (having("decoder.cls_head.weight", torch.zeros(1)), "unknown tensors: decoder.cls_head"),
        (
            having("bb.norm0.weight", torch.zeros(9)),
            r"shape of bb.norm0.weight: \(9,\), expected \(8,\)",
        ),
        (
            having("bb.norm0.weight", torch.full((8,), torch.nan)),
            "NaN or infinity in: bb.norm0.weight",
        ),
        (
            having("bb.norm0.bias", torch.full((8,), -torch.inf)),
            "NaN or infinity in: bb.norm0.bias",
        ),
        (having("bb.patch_embed.proj.weight", torch.zeros(7, 3, 4, 4)), "shape of bb.layers.0"),
        (having("bb.patch_embed.proj.weight", torch.zeros(())), "impossible shapes"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    change: Callable[[State], State], message: str, network: BiRefNet, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnavailable, match=message) as refusal:
        load_state(tmp_path, change(network.state_dict()))
    assert "model.safetensors" in str(refusal.value)


def test_values_beyond_the_type_asked_for_are_refused(network: BiRefNet, tmp_path: Path) -> None:
    state = network.state_dict() | {"bb.norm0.weight": torch.full((8,), 1e6)}
    load_state(tmp_path, state)
    with pytest.raises(ModelUnavailable, match="NaN or infinity"):
        load_state(tmp_path, state, torch.float16)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("content", [pickle.dumps({"state": Bomb()}), b"", b"\xff" * 64])
def test_nothing_but_safetensors_is_opened(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match="cannot be read as safetensors"):
        load(ResolvedModel("model", path, "", (64, 64), PatchOrder.CURRENT))


def test_a_loaded_network_does_not_see_its_file_change(network: BiRefNet, tmp_path: Path) -> None:
    loaded = load_state(tmp_path, network.state_dict())
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert logits(loaded).equal(logits(network))
