"""The engine: its mattes are the network's, whatever shares the batch and whatever runs out."""

from __future__ import annotations

from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bgpipe.config.settings import Precision
from bgpipe.pipeline.errors import Code, DeviceLost, Refused, TransientError, UsageError
from bgpipe.pipeline.inference import engine as engine_module
from bgpipe.pipeline.inference.engine import BiRefNetEngine, choose_precision
from bgpipe.pipeline.networks.birefnet import BiRefNet, ModelConfig, SwinConfig, build
from bgpipe.pipeline.networks.preprocess import DEVIATION, MEAN
from bgpipe.pipeline.types import PatchOrder, ResolvedModel

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

TINY = ModelConfig(
    backbone=SwinConfig(embed=8, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), window=4),
    inner=6,
    branch=10,
    kernels=(3,),
    image_inner=4,
    gate=2,
)
SIZE = (64, 96)


@pytest.fixture
def network() -> BiRefNet:
    torch.manual_seed(0)
    return build(TINY)


@pytest.fixture
def model(network: BiRefNet, tmp_path: Path) -> ResolvedModel:
    path = tmp_path / "tiny.safetensors"
    save_file(network.state_dict(), path)
    return ResolvedModel("tiny", path, "", SIZE, PatchOrder.CURRENT)


def image(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def expected(network: nn.Module, pixels: Pixels) -> np.ndarray:
    normalised = (pixels / 255 - MEAN) / DEVIATION
    batch = torch.from_numpy(normalised.astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return torch.sigmoid(network(batch))[0, 0].numpy()


def test_a_matte_is_the_sigmoid_of_the_network_on_the_normalised_image(
    network: BiRefNet, model: ResolvedModel
) -> None:
    engine = BiRefNetEngine(model, "cpu", batch=1, threads=1)
    for seed in range(2):
        matte = engine.infer([image(seed)])[0].alpha
        assert (matte.shape, matte.dtype) == (SIZE, np.float32)
        np.testing.assert_allclose(matte, expected(network, image(seed)), atol=1e-5)


def test_a_matte_does_not_depend_on_its_neighbours(model: ResolvedModel) -> None:
    engine = BiRefNetEngine(model, "cpu", batch=3, threads=1)
    alone = engine.infer([image(0)])[0].alpha
    crowd = [matte.alpha for matte in engine.infer([image(seed) for seed in (0, 1, 2, 3, 0)])]
    assert len(crowd) == 5
    assert (crowd[0] == alone).all()
    assert not (crowd[1] == alone).all()
    assert (crowd[4] == alone).all()  # in another place of its batch


def test_one_image_at_a_time_the_order_does_not_matter(model: ResolvedModel) -> None:
    engine = BiRefNetEngine(model, "cpu", batch=1, threads=1)
    forth = engine.infer([image(seed) for seed in range(3)])
    back = engine.infer([image(seed) for seed in reversed(range(3))])
    assert all((a.alpha == b.alpha).all() for a, b in zip(forth, reversed(back), strict=True))


NO_ROOM = (
    torch.OutOfMemoryError("no room"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
)


class Narrow(nn.Module):
    """Runs out of memory above `room` images; its logit is the red channel."""

    def __init__(self, room: int, error: RuntimeError = NO_ROOM[0]) -> None:
        super().__init__()
        self.room = room
        self.error = error
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if len(x) > self.room:
            raise self.error
        return x[:, :1] * self.scale, x[:, :1, ::8, ::8]


def engine_of(network: nn.Module, model: ResolvedModel, batch: int) -> BiRefNetEngine:
    return BiRefNetEngine(model, "cpu", batch=batch, threads=1, load=lambda model: network)


@pytest.mark.parametrize("error", NO_ROOM, ids=str)
def test_out_of_memory_halves_the_batch_and_loses_no_image(
    model: ResolvedModel, error: RuntimeError
) -> None:
    engine = engine_of(Narrow(2, error), model, batch=8)
    images = [image(seed) for seed in range(5)]
    mattes = engine.infer(images)
    assert engine.batch == 2
    for pixels, matte in zip(images, mattes, strict=True):
        red = (pixels[..., 0] / 255 - MEAN[0]) / DEVIATION[0]
        np.testing.assert_allclose(matte.alpha, 1 / (1 + np.exp(-red)), atol=1e-5)


def test_out_of_memory_at_a_single_image_refuses_it(model: ResolvedModel) -> None:
    with pytest.raises(Refused) as caught:
        engine_of(Narrow(0), model, batch=4).infer([image(0)])
    assert caught.value.code == Code.DEVICE


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), DeviceLost),
        (RuntimeError("a bug"), RuntimeError),
    ],
)
def test_a_device_that_fails_is_lost_and_a_bug_is_none(
    model: ResolvedModel, error: RuntimeError, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        engine_of(Narrow(0, error), model, batch=4).infer([image(0)])


def test_an_answer_that_is_no_number_is_an_error_and_no_matte(model: ResolvedModel) -> None:
    network = Narrow(1)
    nn.init.constant_(network.scale, torch.nan)
    with pytest.raises(TransientError, match="contains NaN or infinity"):
        engine_of(network, model, batch=1).infer([image(0)])


def test_a_launched_pass_is_read_when_the_caller_wants_it(
    network: BiRefNet, model: ResolvedModel
) -> None:
    engine = BiRefNetEngine(model, "cpu", batch=2, threads=1)
    passes = [engine.launch([image(seed)]) for seed in range(3)]
    for seed in (1, 0, 2):
        (matte,) = passes[seed]()
        np.testing.assert_allclose(matte.alpha, expected(network, image(seed)), atol=1e-5)


def test_a_launch_out_of_memory_answers_for_all_of_its_images(model: ResolvedModel) -> None:
    engine = engine_of(Narrow(1), model, batch=4)
    images = [image(seed) for seed in range(4)]
    mattes = engine.launch(images)()
    assert engine.batch == 1
    for pixels, matte in zip(images, mattes, strict=True):
        (alone,) = engine.launch([pixels])()
        assert (alone.alpha == matte.alpha).all()


def test_a_pass_that_is_no_graph_is_launched_by_its_operations(
    model: ResolvedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(Narrow(1), model, batch=1)
    errors: list[RuntimeError] = [
        RuntimeError("operation not permitted when stream is capturing"),
        torch.OutOfMemoryError("no room"),
    ]

    def capture_graph(*_: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr(engine_module, "capture_graph", capture_graph)
    assert engine._capture_graph() == engine._forward
    assert "no CUDA graph" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):  # for which the batch is halved
        engine._capture_graph()


def test_a_cpu_computes_in_float32_by_default(model: ResolvedModel) -> None:
    assert BiRefNetEngine(model, "cpu", batch=1, threads=1).precision is Precision.FLOAT32


@pytest.mark.parametrize(
    ("precision", "bound"), [(Precision.FLOAT16, 0.004), (Precision.BFLOAT16, 0.03)]
)
def test_half_precision_stays_near_float32(
    precision: Precision, bound: float, network: BiRefNet, model: ResolvedModel
) -> None:
    engine = BiRefNetEngine(model, "cpu", batch=1, threads=1, precision=precision)
    assert engine.precision is precision
    matte = engine.infer([image(0)])[0].alpha
    assert matte.dtype == np.float32
    np.testing.assert_allclose(matte, expected(network, image(0)), atol=bound)


def test_a_precision_that_the_device_has_not_is_refused(model: ResolvedModel) -> None:
    with pytest.raises(UsageError, match="precision not available on a CPU: tf32"):
        BiRefNetEngine(model, "cpu", batch=1, threads=1, precision=Precision.TF32)


def test_a_gpu_before_ampere_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    device = torch.device("cuda")
    assert choose_precision(Precision.AUTO, device) is Precision.FLOAT16
    for precision in (Precision.BFLOAT16, Precision.TF32):
        needed = rf"on Tesla T4, compute capability 7\.5: {precision}: choose float16 or float32"
        with pytest.raises(UsageError, match=needed):
            choose_precision(precision, device)


@pytest.mark.slow
@pytest.mark.skipif(not which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own compiler raises some
def test_a_compiled_network_gives_the_same_mattes(
    network: BiRefNet, model: ResolvedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    engine = BiRefNetEngine(model, "cpu", batch=2, threads=1, compiled=True)
    images = [image(seed) for seed in range(3)]
    for pixels, matte in zip(images, engine.infer(images), strict=True):
        np.testing.assert_allclose(matte.alpha, expected(network, pixels), atol=1e-5)
    assert any(tmp_path.iterdir()), "nothing was kept"
