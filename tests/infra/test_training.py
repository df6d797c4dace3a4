"""The training of the bundled model: samples, steps, checkpoints, scores."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from bgpipe.pipeline.networks.birefnet import CONFIGS, EfficientNetConfig
from bgpipe.pipeline.networks.birefnet.checkpoint import assemble, read
from bgpipe.pipeline.networks.birefnet.efficientnet import EfficientNet
from bgpipe.pipeline.networks.preprocess import DEVIATION, MEAN
from bgpipe.pipeline.types import PatchOrder

# Training is run as scripts, not installed: its files import each other from their own folder.
sys.path.insert(0, str(Path(__file__).parents[2] / "infra" / "training"))

from checkpoint import MODEL, export, surer
from compose import Composer, close_up, pasted
from evaluate import evaluate, predictor
from library import Layer, Library, by_kind, held_out, kind_of, load_library, photos_below
from pretrained import fill
from supervision import structure_loss
from train import train
from trainer import Run, Trainer

SIZE = 64
BUNDLED = Path(__file__).parents[2] / "pipeline" / "models" / "birefnet-nano.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs as cut-outs, discs in photos with their masks, and plain backgrounds."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("foreground/drawn", "photos/drawn", "background/noise"):
        (folder / part).mkdir(parents=True)
    for i in range(5):  # the photo called 4 is one that is held out
        disc = np.zeros((90, 70), np.uint8)
        cv2.circle(disc, (35, 45), 15 + 4 * i, 255, -1)
        colour = np.full((90, 70, 3), rng.integers(150, 255, 3), np.uint8)
        ground = rng.integers(0, 90, (90, 70, 3), np.uint8)
        photo = np.where(disc[..., None] > 0, colour, ground)
        cv2.imwrite(f"{folder}/foreground/drawn/{i}.png", np.dstack([colour, disc]))
        cv2.imwrite(f"{folder}/photos/drawn/{i}.webp", photo)
        cv2.imwrite(f"{folder}/photos/drawn/{i}_alpha.png", disc)
        cv2.imwrite(f"{folder}/background/noise/{i}.png", ground)
    return folder


@pytest.fixture(scope="module")
def library(data: Path) -> Library:
    return load_library(data, side=128)


@pytest.fixture(scope="module")
def plain() -> EfficientNet:
    """A backbone with random features."""
    backbone = CONFIGS["birefnet_nano"].backbone
    assert isinstance(backbone, EfficientNetConfig)
    torch.manual_seed(1)
    return EfficientNet(backbone).eval()


@pytest.fixture(scope="module")
def features(plain: EfficientNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `plain` in the format of the published one, with a classifier."""
    path = tmp_path_factory.mktemp("features") / "efficientnet-lite0.pth"
    torch.save(plain.state_dict() | {"_fc.weight": torch.zeros(1000, 1280)}, path)
    return path


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    sizes = {"sizes": (SIZE,), "last_sizes": (SIZE,)}
    return Run(data=data, out=tmp_path, batch=4, rate=2e-3, samples=4000, **sizes)


@pytest.fixture
def batch(library: Library) -> tuple[torch.Tensor, torch.Tensor]:
    samples = [Composer(library)(i, SIZE) for i in range(4)]
    images, alphas = ([getattr(s, part) for s in samples] for part in ("rgb", "alpha"))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(alphas))


def test_a_sample_depends_on_seed_index_and_size_alone(library: Library) -> None:
    first, again = Composer(library, seed=3), Composer(library, seed=3)
    forwards = [first(i, SIZE) for i in range(12)]
    backwards = [again(i, SIZE) for i in reversed(range(12))][::-1]
    assert all(
        (a.rgb == b.rgb).all() and (a.alpha == b.alpha).all()
        for a, b in zip(forwards, backwards, strict=True)
    )
    pictures = {sample.rgb.tobytes() for sample in forwards}
    assert len(pictures) == 12
    assert Composer(library, seed=4)(0, SIZE).rgb.tobytes() not in pictures


def test_samples_are_squares_with_alphas_from_nothing_to_opaque(library: Library) -> None:
    samples = [Composer(library)(i, SIZE) for i in range(150)]
    assert {s.rgb.shape for s in samples} == {(SIZE, SIZE, 3)}
    assert {s.alpha.shape for s in samples} == {(SIZE, SIZE)}
    assert {s.alpha.dtype for s in samples} == {np.dtype(np.uint8)}
    covered = [s.alpha.mean() / 255 for s in samples]
    assert min(covered) == 0  # some have no subject
    assert 0.1 < np.mean(covered) < 0.6
    assert any(0 < value < 255 for s in samples for value in np.unique(s.alpha))


def test_what_is_pasted_shows_where_its_alpha_is(library: Library) -> None:
    black = Layer(np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8))
    disc = next(layer for layer in library.cutouts.members[0])
    white = Layer(np.full_like(disc.rgb, 255), disc.alpha)
    for seed in range(10):
        shown = pasted(black, white, np.random.default_rng(seed))
        assert np.abs(shown.rgb.astype(int) - shown.alpha[..., None]).max() <= 1
        assert shown.alpha.any()


def test_a_close_view_is_filled_by_its_subject() -> None:
    alpha = np.zeros((200, 300), np.uint8)
    alpha[60:150, 200:230] = 255
    for seed in range(50):
        view = alpha[close_up(Layer(alpha, alpha), np.random.default_rng(seed))]
        height, width = view.shape
        assert 0.5 <= view.mean() / 255 <= 1
        assert 0.75 * 42 <= height <= 1.25 * 42
        assert 0.75 * 30 <= width <= 1.25 * 30


def test_structure_is_lost_by_blur_and_by_nothing_else() -> None:
    alpha = torch.zeros(1, 1, 40, 40)
    alpha[..., 10:30, 10:30] = 1
    blurred = functional.avg_pool2d(alpha, 9, stride=1, padding=4)
    assert structure_loss(alpha, alpha) == pytest.approx(0, abs=1e-5)
    assert structure_loss(blurred, alpha) > 0.1
    assert structure_loss(1 - alpha, alpha) > structure_loss(blurred, alpha)
    assert structure_loss(alpha[..., :6, :6], 1 - alpha[..., :6, :6]) == 0


def test_photos_held_out_are_no_material(data: Path, library: Library) -> None:
    photos = list((data / "photos").rglob("*.webp"))
    assert len(library.photos.members[0]) == sum(not held_out(photo) for photo in photos)


def test_all_photos_of_a_subject_are_held_out_or_none(tmp_path: Path) -> None:
    names = [[tmp_path / f"toys/duck{i}_{k:02}.webp" for k in range(5)] for i in range(100)]
    held = [{held_out(photo) for photo in photos} for photos in names]
    assert all(len(answers) == 1 for answers in held)
    assert 5 < sum(answers == {True} for answers in held) < 25


def test_of_a_held_out_kind_of_objects101_two_photos_in_three_train(tmp_path: Path) -> None:
    kinds = [[tmp_path / f"objects101/kind{i}_{k:04}.jpg" for k in range(90)] for i in range(100)]
    held = [sum(map(held_out, photos)) for photos in kinds]
    assert 5 < sum(count > 0 for count in held) < 25
    assert all(count == 0 or 15 < count < 45 for count in held)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("objects101/car_side_0012.jpg", "objects101/car_side"),
        ("clothing/hat_014b2a1b-c5a.webp", "clothing/hat"),
        ("people/0001.webp", "people/"),
    ],
)
def test_the_kind_of_a_photo_is_in_its_name(name: str, kind: str) -> None:
    assert kind_of(Path("data/photos") / name) == kind


def test_kinds_are_drawn_by_the_root_of_their_size_and_groups_by_their_share() -> None:
    layer = Layer(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8))
    names = ["objects101/ant"] * 8 + ["objects101/bee"] + ["people/x"] * 64 + ["other/x"] * 3
    kinds = by_kind(((Path(name), layer) for name in names), Path.as_posix)
    ants, bees, others, people = (x * 17 for x in kinds.chances)
    assert (ants, bees, others, people) == pytest.approx((22 / 3, 11 / 3, 1, 5))


def test_masks_that_are_not_trusted_are_drawn_less_or_not_at_all(
    data: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").symlink_to(data / "photos")
    sure = {"photos/drawn/0.webp": 0.7, "photos/drawn/1.webp": 0.875}
    index = [{"file": file, "sure": value} for file, value in sure.items()]
    (tmp_path / "index.json").write_text(json.dumps(index))
    weights = [x.weight for x in load_library(tmp_path, side=128).photos.members[0]]
    assert weights == [0.5, 1, 1]


@pytest.mark.parametrize("parts", [["foreground"], ["photos"]])
def test_one_part_of_the_data_is_enough(data: Path, tmp_path: Path, parts: list[str]) -> None:
    for part in parts:
        (tmp_path / part).symlink_to(data / part)
    composer = Composer(load_library(tmp_path, side=128))
    assert max(composer(i, SIZE).alpha.max() for i in range(10)) > 200


def test_a_folder_without_material_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_library(tmp_path, side=128)


def test_features_are_those_of_the_checkpoint_on_images_normalised_as_it_wants(
    plain: EfficientNet, features: Path
) -> None:
    backbone = CONFIGS["birefnet_nano"].backbone
    assert isinstance(backbone, EfficientNetConfig)
    ours = EfficientNet(backbone).eval()
    fill(ours, features)
    levels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    mean, deviation = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, DEVIATION))
    with torch.inference_mode():
        there = plain((levels - 127) / 128)[0]
        here = ours((levels / 255 - mean) / deviation)[0]
    inside = (..., slice(0, -2), slice(0, -2))  # the zeros around an image are another colour
    torch.testing.assert_close(here[inside], there[inside], atol=1e-4, rtol=1e-4)


def test_training_moves_every_parameter_of_the_backbone_and_no_statistic(
    run: Run, features: Path, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    trainer = Trainer(run, features)
    before = {name: x.clone() for name, x in trainer.network.bb.state_dict().items()}
    trainer.step(*batch)
    after = trainer.network.bb.state_dict()
    changed = {name for name, tensor in before.items() if not after[name].equal(tensor)}
    assert changed == dict(trainer.network.bb.named_parameters()).keys()


@pytest.mark.slow
def test_a_few_steps_lower_the_loss(run: Run, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    trainer = Trainer(run)
    trainer.steps = 50  # past the warm-up
    losses = [trainer.step(*batch) for _ in range(8)]
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_threads_that_share_a_batch_make_the_gradient_of_the_whole(
    run: Run, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    one, two = (Trainer(replace(run, threads=threads)) for threads in (1, 2))
    for trainer in (one, two):
        trainer.network.eval()  # norms of halves of a batch would differ
        trainer.steps = 50
    assert two.step(*batch) == pytest.approx(one.step(*batch), rel=0.05)
    assert two.steps == one.steps
    means = [t.optimiser.state_dict()["state"][0]["exp_avg"] for t in (one, two)]
    cosine = functional.cosine_similarity(*(mean.flatten() for mean in means), dim=0)
    assert cosine > 0.95


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_never_stopped(
    run: Run, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    run = replace(run, samples=100)  # short of the warm-up
    unbroken = Trainer(run)
    for _ in range(2):
        unbroken.step(*batch)
    unbroken.save()
    resumed = Trainer(replace(run, resume=True))
    assert resumed.steps == unbroken.steps == 2
    assert [resumed.step(*batch) for _ in range(2)] == [unbroken.step(*batch) for _ in range(2)]
    torch.testing.assert_close(resumed.average, unbroken.average, rtol=0, atol=0)


@pytest.mark.slow
def test_bfloat16_makes_the_gradient_of_float32(
    run: Run, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    run = replace(run, start=BUNDLED)
    whole, half = (Trainer(replace(run, bfloat16=bfloat16)) for bfloat16 in (False, True))
    for trainer in (whole, half):
        trainer.network.eval()
    assert half.step(*batch) == pytest.approx(whole.step(*batch), rel=0.05)
    means = [
        torch.cat([state["exp_avg"].flatten() for state in t.optimiser.state.values()])
        for t in (whole, half)
    ]
    assert functional.cosine_similarity(*means, dim=0) > 0.95


def test_the_last_part_of_a_run_has_other_sizes(run: Run) -> None:
    late = replace(run, last_sizes=(96,), last=0.25)
    assert late.sizes_after(late.steps // 2) == (SIZE,)
    assert late.sizes_after(int(0.8 * late.steps)) == (96,)


@pytest.mark.slow
def test_a_run_leaves_a_checkpoint_a_log_and_weights_that_load(run: Run) -> None:
    done = train(replace(run, samples=12, last_sizes=(96,), last=0.4))
    assert done.steps == 3
    last = json.loads((run.out / "log.jsonl").read_text().splitlines()[-1])
    assert last["samples"] == 12
    path = run.out / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["bgpipe.config"] == "birefnet_nano"
    shipped = assemble(read(path), PatchOrder.CURRENT, torch.float32).state_dict()
    assert all(
        torch.equal(shipped[name], tensor.half().float())
        for name, tensor in done.average.items()
        if tensor.is_floating_point()
    )


def test_weights_are_scored_at_their_own_size_or_another(run: Run) -> None:
    trainer = Trainer(run)
    export(trainer.average, MODEL, trainer.weights, 96)
    photo = cv2.imread(f"{run.data}/photos/drawn/0.webp")
    own, same, other = (predictor(trainer.weights, 1, size)(photo) for size in (None, 96, 160))
    assert own.shape == photo.shape[:2]
    assert (own == same).all()
    assert not (own == other).all()


def test_surer_weights_have_the_same_mask_and_a_clearer_matte(run: Run) -> None:
    trainer = Trainer(run)
    trainer.save()
    sure = run.out / "sure.safetensors"
    export(surer(trainer.average, 2.0), MODEL, sure, SIZE)
    photo = cv2.imread(f"{run.data}/photos/drawn/0.webp")
    before, after = (predictor(path, 1, SIZE)(photo[:64, :64]) for path in (trainer.weights, sure))
    logits = np.log(before / (1 - before))
    np.testing.assert_allclose(after, 1 / (1 + np.exp(-2 * logits)), atol=2e-3)
    assert np.abs(after - 0.5).mean() > np.abs(before - 0.5).mean()


@pytest.mark.parametrize(("answer", "iou", "mae"), [("right", 1.0, 0.0), ("inverse", 0.0, 1.0)])
def test_scores_are_those_of_the_answer(data: Path, answer: str, iou: float, mae: float) -> None:
    truths = iter(sorted((data / "photos").rglob("*_alpha.png")))

    def predict(_rgb: np.ndarray) -> np.ndarray:
        truth = cv2.imread(str(next(truths)), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
        return truth if answer == "right" else 1 - truth

    scores = evaluate(predict, photos_below(data / "photos", None))
    assert list(scores) == ["drawn", "all"]
    assert (scores["all"].images, scores["all"].iou, scores["all"].mae) == (5, iou, mae)
