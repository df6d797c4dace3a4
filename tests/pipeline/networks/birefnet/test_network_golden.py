"""Known answers of small networks, so that parity is tested without the reference data.

`python tests/pipeline/networks/birefnet/test_network_golden.py` writes them anew. They were made by code that gave the
public reference implementation's logits for both released configurations in both patch orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bgpipe.pipeline.networks.birefnet import BiRefNet, ModelConfig, SwinConfig, build
from bgpipe.pipeline.networks.birefnet.checkpoint import assemble
from bgpipe.pipeline.types import PatchOrder

FILE = Path(__file__).with_name("golden.safetensors")
STEP = 2  # every second pixel of every second line is kept
TOLERANCE = 5e-5


@dataclass(frozen=True)
class Case:
    name: str
    config: ModelConfig
    size: tuple[int, int]
    patch_order: PatchOrder = PatchOrder.CURRENT


SHIFTED = ModelConfig(
    backbone=SwinConfig(embed=8, depths=(2, 2, 3, 2), heads=(1, 2, 2, 4), window=3),
    inner=8,
    branch=12,
    kernels=(1, 3, 5),
    image_inner=4,
    gate=4,
)
SMALLER_THAN_A_WINDOW = ModelConfig(
    backbone=SwinConfig(embed=8, depths=(2, 1, 2, 2), heads=(2, 2, 4, 8), window=7),
    inner=6,
    branch=8,
    kernels=(1, 7),
    image_inner=4,
    image_divisor=4,
    gate=4,
)
CASES = [
    Case("shifted", SHIFTED, (96, 64)),
    Case("shifted-legacy", SHIFTED, (96, 64), PatchOrder.LEGACY),
    Case("small", SMALLER_THAN_A_WINDOW, (32, 96)),
    Case("small-legacy", SMALLER_THAN_A_WINDOW, (32, 96), PatchOrder.LEGACY),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_small_networks_give_their_known_logits(case: Case) -> None:
    torch.testing.assert_close(answer(case), load_file(FILE)[case.name], atol=TOLERANCE, rtol=0)


def answer(case: Case) -> Tensor:
    """Every STEPth pixel of the logits, [1, 1, H / STEP, W / STEP]."""
    network = assemble(weights(build(case.config)), case.patch_order, torch.float32)
    with torch.inference_mode():
        logits = network(image(*case.size))
    return logits[..., ::STEP, ::STEP].contiguous()


def weights(network: BiRefNet) -> dict[str, Tensor]:
    """Weights made of a key's name alone, spread so that no layer is idle or saturated."""
    state = network.state_dict()
    return {
        key: _weight(key, like) if like.is_floating_point() else like for key, like in state.items()
    }


def image(height: int, width: int) -> Tensor:
    return torch.from_numpy(1.5 * _spread("image", (1, 3, height, width))).float()


def _weight(key: str, like: Tensor) -> Tensor:
    values = _spread(key, tuple(like.shape))
    if key.endswith("running_var"):
        values = 1 + 0.5 * values / 3**0.5
    elif key.endswith("offset_conv.bias"):
        values = 1.5 * values  # displaced by up to 2.6 pixels, also out of the map
    elif key.endswith("bias_table"):
        values = 0.4 * values
    elif like.dim() > 1:
        values = 1.3 * values / np.sqrt(like[0].numel())
    else:
        values = 0.2 * values + key.endswith((".weight",))
    return torch.from_numpy(values).float()


def _spread(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of mean 0 and variance 1 within 3**0.5, by integer hashing: equal on every machine."""
    with np.errstate(over="ignore"):
        x = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) + np.uint64(
            crc32(name.encode()) << 32
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)) / 2**52 - 1).reshape(shape) * 3**0.5


if __name__ == "__main__":
    save_file({case.name: answer(case) for case in CASES}, FILE)
