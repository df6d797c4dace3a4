"""Parity with the public reference implementation's logits, which lie beside the checkout."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bgpipe.pipeline.networks.birefnet import create
from bgpipe.pipeline.networks.birefnet.checkpoint import to_current_order
from bgpipe.pipeline.networks.birefnet.fused import fuse

TOLERANCE = 5e-5
FUSED = 1e-4
LEVELS = {torch.float32: 0.01, torch.float16: 2, torch.bfloat16: 12}
"""By how much a matte may differ from the reference's, of 255 (infra/docs/performance.md)."""
BACKBONES = ["swin_v1_t", "swin_v1_l"]
CASES = {"swin_v1_t": ["256x256_s0", "320x224_s1", "512x512_s2"], "swin_v1_l": ["320x224_s1"]}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "birefnet"


@pytest.fixture(scope="module")
def recipe(golden: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe", golden / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backbone", BACKBONES)
def test_keys_shapes_and_types_are_the_released_ones(backbone: str, golden: Path) -> None:
    wanted = json.loads((golden / f"keys_{backbone}.json").read_text())
    with torch.device("meta"):
        state = create(backbone).state_dict()
    assert {k: [list(v.shape), str(v.dtype)[6:]] for k, v in state.items()} == wanted


@pytest.mark.parametrize(
    "backbone", ["swin_v1_t", pytest.param("swin_v1_l", marks=pytest.mark.slow)]
)
def test_logits_match_in_both_patch_orders(backbone: str, golden: Path, recipe: ModuleType) -> None:
    network = create(backbone)
    with torch.inference_mode():
        recipe.fill(network)
    current = load_file(golden / f"golden_{backbone}.safetensors")
    legacy = load_file(golden / f"golden_{backbone}_legacy_patch_order.safetensors")
    for case in CASES[backbone]:
        logits = current[f"{case}/logits"]
        assert _distance(_run(network, recipe, case), logits) <= TOLERANCE
        assert _distance(_run(fuse(network, logits.shape[2:]), recipe, case), logits) <= FUSED
    network.load_state_dict(to_current_order(network.state_dict()))
    for case in CASES[backbone][:2]:
        expected = legacy[f"{case}/logits_legacy_patch_order"]
        assert _distance(_run(network, recipe, case), expected) <= TOLERANCE


@pytest.mark.parametrize(
    "backbone", ["swin_v1_t", pytest.param("swin_v1_l", marks=pytest.mark.slow)]
)
def test_every_precision_keeps_its_bound(
    backbone: str, golden: Path, recipe: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    network = create(backbone)
    with torch.inference_mode():
        recipe.fill(network)
    known = load_file(golden / f"golden_{backbone}.safetensors")
    case = CASES[backbone][0]
    logits = known[f"{case}/logits"]
    for dtype, bound in LEVELS.items():
        matte = _run(fuse(network, logits.shape[2:]).to(dtype), recipe, case, dtype).float()
        levels = 255 * (matte.sigmoid() - logits.sigmoid()).abs()
        worst, most, mean = levels.max(), levels.flatten().quantile(0.999), levels.mean()
        with capsys.disabled():
            print(f"\n{backbone} {case} {dtype}: {worst:.3f}, {most:.3f}, {mean:.4f} of 255")
        assert worst <= bound


def _run(
    network: torch.nn.Module,
    recipe: ModuleType,
    case: str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    image = torch.from_numpy(recipe.input_tensor(*recipe.CASES[case])).to(dtype)
    with torch.inference_mode():
        output = network(image)
    logits: Tensor = output if isinstance(output, Tensor) else output[0]
    return logits


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
