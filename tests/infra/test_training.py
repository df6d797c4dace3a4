"""The training of the bundled model: samples, steps, checkpoints, scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from bgpipe.pipeline.model import CONFIGS, create
from bgpipe.pipeline.model.weights import assemble, read
from bgpipe.pipeline.types import PatchOrder

# Training is run as scripts, not installed: its files import each other from their own folder.
sys.path.insert(0, str(Path(__file__).parents[2] / "infra" / "training"))

from ablate import Variant, row, weights_of
from baseline import grab_cut
from camera import shaken
from compose import Composer
from evaluate import ALL, Score, evaluate, iou, predictor, validate
from examples import sheet
from gains import scores_of, table
from library import Layer, Library, emptied, load_library
from outlines import outline
from split import held_out
from subjects import ASIDE, harmonised, paste
from supervision import structure_loss
from surfaces import made_subject
from train import train
from trainer import Leg, Run, Trainer, as_input, enlarge_last, sample_plainly

TRAINING = Path(__file__).parents[2] / "infra" / "training"
SIZE = 64


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs as cut-outs, discs in photos with their masks, and two plain backgrounds."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("foreground/drawn", "photos/drawn", "background"):
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
        cv2.imwrite(f"{folder}/background/{i}.png", ground)
    return folder


@pytest.fixture(scope="module")
def library(data: Path) -> Library:
    return load_library(data, side=128)


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Run:
    leg = Leg(size=SIZE, batch=4, rate=2e-3, minutes=60)
    return Run(data=data, out=tmp_path, leg=leg, workers=0)


@pytest.fixture
def batch(library: Library) -> tuple[torch.Tensor, torch.Tensor]:
    samples = [Composer(library, SIZE)(i) for i in range(4)]
    images, alphas = ([getattr(s, part) for s in samples] for part in ("rgb", "alpha"))
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(alphas))


def test_a_sample_depends_on_seed_and_index_alone(library: Library) -> None:
    first, again = Composer(library, SIZE, seed=3), Composer(library, SIZE, seed=3)
    forwards = [first(i) for i in range(12)]
    backwards = [again(i) for i in reversed(range(12))][::-1]
    assert all(
        (a.rgb == b.rgb).all() and (a.alpha == b.alpha).all()
        for a, b in zip(forwards, backwards, strict=True)
    )
    pictures = {sample.rgb.tobytes() for sample in forwards}
    assert len(pictures) == 12
    assert Composer(library, SIZE, seed=4)(0).rgb.tobytes() not in pictures


def test_samples_are_squares_with_alphas_from_nothing_to_opaque(library: Library) -> None:
    samples = [Composer(library, SIZE)(i) for i in range(150)]
    assert {s.rgb.shape for s in samples} == {(SIZE, SIZE, 3)}
    assert {s.alpha.shape for s in samples} == {(SIZE, SIZE)}
    assert {s.alpha.dtype for s in samples} == {np.dtype(np.uint8)}
    covered = [s.alpha.mean() / 255 for s in samples]
    assert min(covered) == 0  # some have no subject
    assert 0.1 < np.mean(covered) < 0.6
    assert any(0 < value < 255 for s in samples for value in np.unique(s.alpha))


def test_made_subjects_have_a_form_and_a_surface(library: Library) -> None:
    rng = np.random.default_rng(0)
    assert min(outline(library, 48, rng).max() for _ in range(60)) > 127
    subjects = [made_subject(library, rng) for _ in range(20)]
    assert all(s.rgb.shape[:2] == s.alpha.shape for s in subjects)
    assert len({s.rgb.tobytes() for s in subjects}) == 20


def test_things_aside_lie_on_the_edge_of_the_frame_and_are_small(library: Library) -> None:
    empty = Layer(np.zeros((96, 96, 3), np.uint8), np.zeros((96, 96), np.uint8))
    shown = []
    for i in range(60):
        rng = np.random.default_rng(i)
        shown.append(paste(empty, library.cutouts.draw(rng), rng, ASIDE).alpha > 127)
    assert max(mask.mean() for mask in shown) < 0.1
    middles = [np.argwhere(mask).mean(axis=0) for mask in shown if mask.any()]
    assert len(middles) > 40
    assert all(np.abs(middle - 48).max() > 24 for middle in middles)


def test_a_harmonised_subject_has_more_of_the_grounds_colours() -> None:
    rng = np.random.default_rng(0)
    alpha = np.zeros((64, 64, 1), np.float32)
    alpha[20:44, 20:44] = 1
    red = (np.array([0.8, 0.2, 0.2]) + rng.normal(0, 0.02, (64, 64, 3))).astype(np.float32)
    blue = (np.array([0.1, 0.2, 0.7]) + rng.normal(0, 0.1, (64, 64, 3))).astype(np.float32)
    half, all_of_it = (
        harmonised(red * alpha, alpha, blue, np.float32(share))[20:44, 20:44] for share in (0.5, 1)
    )
    assert half.mean(axis=(0, 1)) == pytest.approx([0.45, 0.2, 0.45], abs=0.02)
    assert all_of_it.mean(axis=(0, 1)) == pytest.approx([0.1, 0.2, 0.7], abs=0.02)
    assert all_of_it.std(axis=(0, 1)).min() > 0.03  # twice what it was: the most that is taken on


def test_a_shaken_camera_spreads_a_point_along_a_line_and_keeps_its_light() -> None:
    point = np.zeros((31, 31, 3), np.uint8)
    point[15, 15] = 240
    for seed in range(10):
        line = shaken(point, np.random.default_rng(seed))[..., 0]
        assert line[15, 15] == line.max() < 240
        assert abs(int(line.sum()) - 240) <= 9
        assert np.abs(np.argwhere(line).mean(axis=0) - 15).max() <= 0.5


def test_structure_is_lost_by_blur_and_by_nothing_else() -> None:
    alpha = torch.zeros(1, 1, 40, 40)
    alpha[..., 10:30, 10:30] = 1
    blurred = functional.avg_pool2d(alpha, 9, stride=1, padding=4)
    assert structure_loss(alpha, alpha) == pytest.approx(0, abs=1e-5)
    assert structure_loss(blurred, alpha) > 0.1
    assert structure_loss(1 - alpha, alpha) > structure_loss(blurred, alpha)
    assert structure_loss(alpha[..., :6, :6], 1 - alpha[..., :6, :6]) == 0


def test_an_emptied_photo_shows_only_what_was_beside_its_subject() -> None:
    alpha = np.zeros((60, 80), np.uint8)
    alpha[20:, 30:50] = 255
    columns = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, :, None], (60, 80, 3))
    ground = emptied(Layer(np.where(alpha[..., None] > 0, np.uint8(255), columns), alpha))
    assert ground is not None
    assert ground.max() < 80
    assert (ground[:, :20] == columns[:, :20]).all()
    assert emptied(Layer(columns, np.full_like(alpha, 255))) is None


def test_photos_held_out_are_no_material(data: Path, library: Library) -> None:
    photos = list((data / "photos").rglob("*.webp"))
    assert len(library.photos.members[0]) == sum(not held_out(photo) for photo in photos)


def test_all_photos_of_a_subject_are_held_out_or_none(tmp_path: Path) -> None:
    names = [[tmp_path / f"toys/duck{i}_{k:02}.webp" for k in range(5)] for i in range(100)]
    held = [{held_out(photo) for photo in photos} for photos in names]
    assert all(len(answers) == 1 for answers in held)
    assert 5 < sum(answers == {True} for answers in held) < 25


@pytest.mark.parametrize("parts", [["foreground"], ["photos"]])
def test_one_part_of_the_data_is_enough(data: Path, tmp_path: Path, parts: list[str]) -> None:
    for part in parts:
        (tmp_path / part).symlink_to(data / part)
    composer = Composer(load_library(tmp_path, side=128), SIZE)
    assert max(composer(i).alpha.max() for i in range(10)) > 200


@pytest.mark.parametrize(
    ("pattern", "photos", "cutouts", "backgrounds"),
    [
        ("photos/drawn/*", 0, 5, 5),
        ("photos/drawn/[01].*", 2, 5, 5),
        ("foreground/*", 4, 0, 5),
        ("background/0.png", 4, 5, 4),
    ],
)
def test_what_a_pattern_leaves_out_is_no_material(
    data: Path, pattern: str, photos: int, cutouts: int, backgrounds: int
) -> None:
    library = load_library(data, 128, [pattern])
    of_photos = (library.photos, library.subjects)
    assert [sum(map(len, groups.members)) for groups in of_photos] == [photos] * 2
    assert sum(map(len, library.cutouts.members)) == cutouts
    assert len(library.backgrounds) == backgrounds


def test_a_pattern_that_leaves_nothing_out_is_named(data: Path) -> None:
    with pytest.raises(ValueError, match="nothing to leave out: photos/persons/"):
        load_library(data, 128, ["photos/drawn/*", "photos/persons/*"])


def test_a_run_is_without_what_is_left_out(run: Run) -> None:
    with pytest.raises(ValueError, match="no cut-outs and no photos"):
        train(replace(run, without=("foreground/*", "photos/*")))


def test_a_folder_without_material_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_library(tmp_path, side=128)


def test_a_few_steps_lower_the_loss(run: Run, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    trainer = Trainer(run)
    trainer.advance_clock(200)  # past the warm-up
    losses = [trainer.step(*batch) for _ in range(8)]
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_logits_enlarged_last_are_the_same(run: Run) -> None:
    network = create(run.model)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = network(images)
        enlarge_last(network.decoder)
        torch.testing.assert_close(network(images), before, atol=1e-5, rtol=1e-4)


def test_a_resumed_run_goes_on_as_if_never_stopped(
    run: Run, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    unbroken = Trainer(run)
    unbroken.advance_clock(200)
    for _ in range(2):
        unbroken.step(*batch)
    unbroken.save()
    resumed = Trainer(replace(run, resume=True))
    assert resumed.progress == unbroken.progress
    assert resumed.progress.step == 2
    assert resumed.progress.samples == 8
    assert [resumed.step(*batch) for _ in range(2)] == [unbroken.step(*batch) for _ in range(2)]
    torch.testing.assert_close(resumed.average, unbroken.average, rtol=0, atol=0)


def test_a_run_can_begin_from_the_weights_of_another(run: Run) -> None:
    first = Trainer(run)
    first.save()
    begun = Trainer(replace(run, seed=1, start=first.weights)).network.state_dict()
    assert all(
        begun[name].equal(tensor.half().float())
        for name, tensor in first.network.state_dict().items()
        if tensor.is_floating_point()
    )


@pytest.mark.parametrize("name", ["decoder.conv_out1.0.bias", "bb.layers.0.0.bn1.running_mean"])
def test_a_run_does_not_begin_from_half_a_network(run: Run, name: str) -> None:
    first = Trainer(run)
    first.save()
    tensors = load_file(first.weights)
    del tensors[name]
    save_file(tensors, first.weights)
    with pytest.raises(ValueError, match=f"weights of another network: .*: {name}"):
        Trainer(replace(run, start=first.weights))


def test_what_the_colours_say_is_added_and_not_trained(run: Run) -> None:
    trainer = Trainer(run)
    trainer.save()
    assert not trainer.network.config.evidence
    shipped = assemble(read(trainer.weights), PatchOrder.CURRENT, torch.float32)
    assert shipped.config == CONFIGS["birefnet_nano"]
    assert shipped.evidence.gain.tolist() == [1, 1]


def test_other_settings_begin_a_new_leg_from_the_same_weights(run: Run) -> None:
    trainer = Trainer(run)
    trainer.advance_clock(60)
    trainer.save()
    smaller = replace(run, resume=True, leg=replace(run.leg, rate=1e-4))
    after = Trainer(smaller).progress
    assert (after.leg_seconds, after.seconds, after.leg["rate"]) == (0, 60, 1e-4)


def test_a_run_leaves_a_checkpoint_a_log_and_weights_that_load(run: Run) -> None:
    done = train(replace(run, leg=replace(run.leg, samples=12)))
    assert done.progress.samples == 4 * done.progress.step == 12
    last = json.loads((run.out / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 3
    path = run.out / "weights.safetensors"
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["bgpipe.config"] == "birefnet_nano"
    shipped = assemble(read(path), PatchOrder.CURRENT, torch.float32).state_dict()
    assert all(
        torch.equal(shipped[name], tensor.half().float())
        for name, tensor in done.average.items()
        if tensor.is_floating_point()
    )


def test_the_best_weights_are_those_that_score_best_on_photos_held_out(run: Run) -> None:
    trainer = Trainer(run)
    judged = [trainer.save(lambda _path, iou=iou: Score(1, iou, 0.1)) for iou in (0.4, 0.6)]
    best = (run.out / "best.safetensors").read_bytes()
    trainer.average["decoder.conv_out1.0.bias"] += 1
    trainer.save(lambda _path: Score(1, 0.5, 0.1))
    assert [score.iou for score in judged if score] == [0.4, 0.6]
    assert (run.out / "best.safetensors").read_bytes() == best
    assert (run.out / "weights.safetensors").read_bytes() != best
    assert Trainer(replace(run, resume=True)).progress.best == 0.6


def test_weights_can_be_scored_without_what_the_colours_say(run: Run) -> None:
    trainer = Trainer(run)
    trainer.average["decoder.conv_out1.0.weight"].zero_()  # a network that says nothing
    trainer.save()
    photo = cv2.imread(f"{run.data}/photos/drawn/0.webp")
    with_colours, alone = (
        predictor(trainer.weights, 1, gain)(photo) for gain in (None, (0.0, 0.0))
    )
    assert np.abs(with_colours - alone).max() > 0.01
    assert (predictor(trainer.weights, 1, (1.0, 1.0))(photo) == with_colours).all()


def test_weights_are_validated_on_the_photos_held_out(run: Run) -> None:
    Trainer(run).save()
    score = validate(run.out / "weights.safetensors", run.data, threads=1)
    assert score is not None
    assert score.images == 1


def test_two_processes_train_one_network(data: Path, tmp_path: Path) -> None:
    settings = f"--data {data} --out {tmp_path} --minutes 0.01 --size {SIZE} --batch 4 --workers 0"
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    subprocess.run(
        [*launcher, "--nproc-per-node=2", TRAINING / "train.py", *settings.split(), "--threads=1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=True,
    )
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert len(lines) == 1  # one of them writes
    assert last["samples"] == 4 * last["step"]  # half of each batch is every one's


def test_plain_sampling_is_the_same_function(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    network = create("birefnet_nano")
    with torch.inference_mode():
        deformable = network(as_input(batch[0]))
        sample_plainly(network)
        plain = network(as_input(batch[0]))
    assert deformable.std() > 1e-3
    torch.testing.assert_close(plain, deformable, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("answer", "iou", "mae"), [("right", 1.0, 0.0), ("inverse", 0.0, 1.0)])
def test_scores_are_those_of_the_answer(data: Path, answer: str, iou: float, mae: float) -> None:
    truths = iter(sorted((data / "photos").rglob("*_alpha.png")))

    def predict(_rgb: np.ndarray) -> np.ndarray:
        truth = cv2.imread(str(next(truths)), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
        return truth if answer == "right" else 1 - truth

    scores = evaluate(predict, data / "photos")
    assert list(scores) == ["drawn", "all"]
    assert (scores["all"].images, scores["all"].iou, scores["all"].mae) == (5, iou, mae)


def test_grabcut_finds_what_stands_out() -> None:
    truth = np.zeros((120, 160), np.uint8)
    cv2.circle(truth, (80, 60), 30, 255, -1)
    noise = np.random.default_rng(0).integers(0, 40, (120, 160, 3), np.uint8)
    photo = np.where(truth[..., None] > 0, np.uint8([200, 40, 40]), np.uint8([30, 60, 160])) + noise
    assert iou(grab_cut(photo), truth / np.float32(255)) > 0.9


def test_a_sheet_shows_every_photo_above_its_cutout() -> None:
    photos = [np.full((40, 60, 3), value, np.uint8) for value in (60, 90, 120)]
    made = sheet(lambda rgb: np.ones(rgb.shape[:2], np.float32), photos)
    cell = made.shape[1] // 3
    assert made.shape == (2 * cell, 3 * cell, 3)
    middles = [[made[y, x, 0] for x in range(cell // 2, 3 * cell, cell)] for y in (92, cell + 92)]
    assert middles == [[60, 90, 120]] * 2


def test_an_ablation_trains_each_variant_once_and_without_its_part(run: Run) -> None:
    base = replace(run, leg=replace(run.leg, samples=4))
    variant = Variant("without cut-outs", without=("foreground/*",))
    weights = weights_of(variant, base)
    written = weights.stat().st_mtime_ns
    assert weights_of(variant, base) == weights
    assert weights.stat().st_mtime_ns == written
    assert row(variant, weights, run.data, run.data / "photos").count("/") == 2  # held out and all
    with pytest.raises(ValueError, match="no cut-outs and no photos"):
        weights_of(Variant("without any", without=("foreground/*", "photos/*")), base)


def test_gains_are_scored_as_the_weights_with_these_gains_are(run: Run) -> None:
    trainer = Trainer(run)
    trainer.average["decoder.conv_out1.0.weight"].zero_()  # a network that says nothing
    trainer.save()
    weights = trainer.weights
    scores = scores_of(weights, run.data / "photos")
    assert len(scores) == 25
    for gains in ((0.0, 0.0), (1.5, 0.5)):
        alone = evaluate(predictor(weights, 1, gains), run.data / "photos")[ALL]
        assert scores[gains].iou == pytest.approx(alone.iou, abs=0.002)
        assert scores[gains].mae == pytest.approx(alone.mae, abs=0.0001)
    assert scores[0.0, 0.0].mae != pytest.approx(scores[2.0, 2.0].mae, abs=0.001)
    header, _, *rows = table({"drawn": scores, "again": scores}).splitlines()
    assert header == "| border | found | drawn | again | mean |"
    assert rows[0].startswith("| 0.0 | 0.0 | ")
    assert len(rows) == 25
    with pytest.raises(ValueError, match="no photos with masks"):
        scores_of(weights, run.data / "background")
