"""The engines on a GPU: every precision, graphs, compiled code, and the same bits every time.

They need little more than torch (infra/docs/gpu.md), so that they run on any GPU host.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bgpipe.config.settings import Precision
from bgpipe.pipeline.inference.engine import BiRefNetEngine
from bgpipe.pipeline.networks.birefnet import BiRefNet
from bgpipe.pipeline.types import ResolvedModel

from .test_engine import expected, image, model, network

__all__ = ["model", "network"]  # fixtures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # torch's compiler warns, differently on each GPU
]

BOUNDS = {
    Precision.FLOAT32: 1e-4,
    Precision.TF32: 4e-3,
    Precision.FLOAT16: 4e-3,
    Precision.BFLOAT16: 3e-2,
}


def mattes(engine: BiRefNetEngine, seeds: list[int]) -> list[np.ndarray]:
    return [matte.alpha for matte in engine.infer([image(seed) for seed in seeds])]


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("graphs", [False, True])
def test_every_precision_stays_near_the_cpu(
    precision: Precision, graphs: bool, network: BiRefNet, model: ResolvedModel
) -> None:
    of_ampere = precision in (Precision.TF32, Precision.BFLOAT16)
    if of_ampere and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no such precision before Ampere")
    engine = BiRefNetEngine(model, "cuda", batch=2, threads=1, precision=precision, graphs=graphs)
    for seed, alpha in enumerate(mattes(engine, list(range(7)))):
        np.testing.assert_allclose(alpha, expected(network, image(seed)), atol=BOUNDS[precision])


@pytest.mark.parametrize("graphs", [False, True])
def test_neighbours_and_order_change_no_bit(graphs: bool, model: ResolvedModel) -> None:
    engine = BiRefNetEngine(model, "cuda", batch=4, threads=1, graphs=graphs)
    alone = [mattes(engine, [seed])[0] for seed in range(9)]
    together = mattes(engine, list(range(9)))
    backwards = mattes(engine, list(reversed(range(9))))
    for one, forth, back in zip(alone, together, reversed(backwards), strict=True):
        assert (one == forth).all()
        assert (one == back).all()


@pytest.mark.slow
@pytest.mark.parametrize("graphs", [False, True])
def test_a_compiled_network_stays_near_the_cpu(
    graphs: bool, network: BiRefNet, model: ResolvedModel
) -> None:
    engine = BiRefNetEngine(model, "cuda", batch=2, threads=1, compiled=True, graphs=graphs)
    for seed, alpha in enumerate(mattes(engine, [0, 1, 2])):
        np.testing.assert_allclose(alpha, expected(network, image(seed)), atol=4e-3)


class Greedy(nn.Module):
    """Wants more memory than there is above `room` images; its logit is the red channel."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) > self.room:
            torch.empty(2**50, device=x.device)
        return x[:, :1] * self.scale, x[:, :1, ::8, ::8]


@pytest.mark.parametrize("graphs", [False, True])
def test_a_batch_that_does_not_fit_is_halved_at_the_start(
    graphs: bool, model: ResolvedModel
) -> None:
    engine = BiRefNetEngine(
        model, "cuda", batch=8, threads=1, graphs=graphs, load=lambda _: Greedy(2)
    )
    assert engine.batch == 2
    assert len(mattes(engine, list(range(5)))) == 5


def test_the_alpha_of_an_edge_stays_near_the_cpu_and_does_not_depend_on_its_neighbours(
    model: ResolvedModel,
) -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("transformers")
    from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine

    from ...support.tiny_vitmatte import tiny_vitmatte

    def engine(device: str) -> VitMatteEngine:
        load = lambda _, dtype: tiny_vitmatte().to(dtype)  # noqa: E731
        return VitMatteEngine(model, device, batch=3, threads=1, load=load)

    tiles = [np.dstack([image(seed), image(seed)[..., 0] // 127 * 127]) for seed in range(4)]
    reference = engine("cpu").infer(tiles)
    on_gpu = engine("cuda")
    together = on_gpu.infer(tiles)
    for index, (near, exact) in enumerate(zip(together, reference, strict=True)):
        np.testing.assert_allclose(near.alpha, exact.alpha, atol=2e-2)
        assert (on_gpu.infer([tiles[index]])[0].alpha == near.alpha).all()
