"""ViTMatte on a device: the network's own answers, whatever shares the batch; weights that fit or not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from bgpipe.pipeline.errors import Code, ModelUnavailable, TransientError
from bgpipe.pipeline.inference.vitmatte_engine import VitMatteEngine
from bgpipe.pipeline.matting.edges import UNKNOWN, make_trimap, solve_edges
from bgpipe.pipeline.networks import vitmatte
from bgpipe.pipeline.networks.preprocess import DEVIATION, MEAN
from bgpipe.pipeline.types import Matting, ModelTask, PatchOrder, ResolvedModel

from ...support.tiny_vitmatte import saved, tiny_vitmatte

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Pixels

SIZE = (64, 96)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return tiny_vitmatte()


def resolved(path: Path) -> ResolvedModel:
    order = PatchOrder.CURRENT
    return ResolvedModel("tiny", path, "", SIZE, order, task=ModelTask.EDGES)


@pytest.fixture
def model(network: nn.Module, tmp_path: Path) -> ResolvedModel:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(saved(network))
    return resolved(path)


def tile(seed: int) -> Pixels:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (*SIZE, 4), np.uint8)
    pixels[..., 3] = generator.choice([0, 128, 255], SIZE)
    return pixels


def expected(network: nn.Module, pixels: Pixels) -> np.ndarray:
    rgb = (pixels[..., :3] / 255 - MEAN) / DEVIATION
    trimap = np.select([pixels[..., 3] == 0, pixels[..., 3] == 255], [0.0, 1.0], 0.5)
    batch = torch.from_numpy(np.dstack([rgb, trimap]).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return network(batch).alphas[0, 0].numpy()


def test_the_answer_is_the_networks_on_normalised_colours_and_a_trimap_of_halves(
    network: nn.Module, model: ResolvedModel
) -> None:
    engine = VitMatteEngine(model, "cpu", batch=2, threads=1)
    answers = engine.infer([tile(seed) for seed in range(3)])
    for seed, answer in enumerate(answers):
        assert (answer.alpha.shape, answer.alpha.dtype) == (SIZE, np.float32)
        assert np.ptp(answer.alpha) > 0.05
        np.testing.assert_allclose(answer.alpha, expected(network, tile(seed)), atol=1e-5)


def test_a_tile_gets_the_same_bytes_alone_and_among_others(model: ResolvedModel) -> None:
    engine = VitMatteEngine(model, "cpu", batch=3, threads=1)
    alone = engine.infer([tile(0)])[0].alpha
    crowd = [answer.alpha for answer in engine.infer([tile(seed) for seed in (0, 1, 2, 3)])]
    assert (crowd[0] == alone).all()
    assert not (crowd[1] == alone).all()


class Narrow(nn.Module):
    """Runs out of memory above `room` tiles; its alpha is the trimap."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("no room")
        return SimpleNamespace(alphas=x[:, 3:])


def test_out_of_memory_halves_the_batch_until_not_even_a_tile_fits(model: ResolvedModel) -> None:
    engine = VitMatteEngine(model, "cpu", batch=8, threads=1, load=lambda model, dtype: Narrow(2))
    answers = engine.infer([tile(seed) for seed in range(5)])
    assert (engine.batch, len(answers)) == (2, 5)
    assert set(np.unique(answers[4].alpha)) == {0, 0.5, 1}
    engine = VitMatteEngine(model, "cpu", batch=2, threads=1, load=lambda model, dtype: Narrow(0))
    with pytest.raises(TransientError) as caught:
        engine.infer([tile(0)])
    assert caught.value.code == Code.DEVICE


def test_tiles_leave_no_seam_that_the_whole_image_would_not_have(model: ResolvedModel) -> None:
    """The same picture in tiles and whole: the difference is bounded, and has no step of its own."""
    height, width = 320, 416
    rows, columns = np.mgrid[:height, :width]
    smooth = np.sin(rows / 23) * np.cos(columns / 31)
    rgb = np.uint8(128 + 100 * np.dstack([smooth, -smooth, smooth**2]))
    matte = np.clip((110 - np.hypot(rows - 160, columns - 208)) / 40 + 0.5, 0, 1)
    engine = VitMatteEngine(model, "cpu", batch=1, threads=1)

    def solved(size: tuple[int, int]) -> np.ndarray:
        matting = Matting("tiny", "", size, band=0.02)
        return solve_edges(rgb, matte.astype(np.float32), matting, engine.infer)

    whole, tiled = solved((height, width)), solved((160, 160))
    band = make_trimap(matte.astype(np.float32), 0.02) == UNKNOWN
    difference = np.where(band, tiled - whole, 0)
    print("difference:", np.abs(difference).max(), "of", np.ptp(whole[band]))
    inside = band[:, 1:] & band[:, :-1]
    steps = np.abs(np.diff(difference, axis=1))[inside]
    print("steps:", steps.max(), np.abs(np.diff(whole, axis=1))[inside].max())
    assert np.abs(difference).max() < 0.25 * np.ptp(whole[band])
    assert steps.max() < 2 * np.abs(np.diff(whole, axis=1))[inside].max()


def broken(network: nn.Module, **changes: torch.Tensor | None) -> bytes:
    tensors = load(saved(network))
    for key, value in changes.items():
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    return save(tensors)


LAST = "decoder.matting_head.matting_convs.3.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({LAST: None}, f"Missing key.*{LAST}"),
        ({"stranger": torch.zeros(1)}, "Unexpected key.*stranger"),
        ({LAST: torch.zeros(1, 8, 1, 1)}, f"size mismatch for {LAST}"),
        ({LAST: torch.full((1, 16, 1, 1), torch.nan)}, f"NaN or infinity in: {LAST}"),
        ({vitmatte.PATCHES: None}, f"tensor missing: {vitmatte.PATCHES}"),
        ({vitmatte.PATCHES: torch.zeros(3)}, "impossible shapes"),
    ],
)
def test_weights_that_do_not_fit_exactly_are_refused(
    network: nn.Module, changes: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(broken(network, **changes))
    with pytest.raises(ModelUnavailable, match=f"not the weights of a ViTMatte: .*{message}"):
        vitmatte.load(resolved(path), torch.float32)


def test_weights_that_only_half_precision_makes_infinite_are_refused(
    network: nn.Module, tmp_path: Path
) -> None:
    name = next(name for name, _ in network.named_buffers() if name.endswith("running_var"))
    path = tmp_path / "model.safetensors"
    large = torch.full_like(network.get_buffer(name), 70_000)
    path.write_bytes(broken(network, **{name: large}))
    vitmatte.load(resolved(path), torch.float32)
    with pytest.raises(ModelUnavailable, match=f"NaN or infinity in: {name} as torch.float16"):
        vitmatte.load(resolved(path), torch.float16)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelUnavailable, match="cannot be read as safetensors"):
        vitmatte.load(resolved(path), torch.float32)


def test_the_configuration_of_the_released_small_one_is_read_from_its_shapes() -> None:
    layers = {
        f"backbone.encoder.layer.{i}.attention.rel_pos_h": (63 if i % 3 == 2 else 27, 64)
        for i in range(12)
    }
    residuals = {f"backbone.encoder.layer.{i}.residual.conv1.weight": () for i in (2, 5, 8, 11)}
    convs = {f"decoder.convstream.convs.{i}.conv.weight": (n,) for i, n in enumerate((48, 96, 192))}
    fusion = {
        f"decoder.fusion_blocks.{i}.conv.conv.weight": (n,)
        for i, n in enumerate((256, 128, 64, 32))
    }
    config = vitmatte.infer_config(
        {
            vitmatte.PATCHES: (384, 4, 16, 16),
            vitmatte.POSITIONS: (1, 197, 384),
            "backbone.encoder.layer.0.mlp.fc1.weight": (1536, 384),
            **layers,
            **residuals,
            **convs,
            **fusion,
        }
    )
    backbone = config.backbone_config
    assert (backbone.num_attention_heads, backbone.num_hidden_layers) == (6, 12)
    assert (backbone.image_size, backbone.pretrain_image_size) == (512, 224)
    assert (backbone.mlp_ratio, backbone.window_size) == (4, 14)
    assert backbone.window_block_indices == [0, 1, 3, 4, 6, 7, 9, 10]
    assert backbone.residual_block_indices == [2, 5, 8, 11]
    assert backbone.out_features == ["stage12"]
