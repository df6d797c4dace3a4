"""The main job: a folder of real photos in, cutouts out, books closed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from .conftest import Bgpipe

NANO = ("--model", "birefnet-nano", "--wait")
CUTOUTS = ("astronaut.png", "chelsea.png", "coffee.png", "sub folder/rökét 1.png")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGBA")
        return np.asarray(image)


def upright(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def assert_cutout(source: Path, cutout: Path) -> None:
    """What the reference promises of every cutout."""
    rgba, rgb = pixels(cutout), upright(source)
    assert rgba.shape[:2] == rgb.shape[:2]
    alpha = rgba[..., 3]
    assert (rgba[alpha == 255][:, :3] == rgb[alpha == 255]).all()
    assert not rgba[alpha == 0].any()


def read_summary(done: CompletedProcess[str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def test_a_folder_becomes_cutouts_and_a_second_run_has_nothing_to_do(
    bgpipe: Bgpipe, photos: Path
) -> None:
    first = bgpipe("submit", photos, *NANO, "--json")
    assert first.returncode == 0, first.stderr
    summary = read_summary(first)
    assert (summary["state"], summary["total"], summary["done"]) == ("finished", 4, 4)
    assert summary["model"] == "birefnet-nano"
    out = photos.with_name("photos-cutouts")
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert made == sorted(CUTOUTS)
    for source in photos.rglob("*.*"):
        assert_cutout(source, (out / source.relative_to(photos)).with_suffix(".png"))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}

    second = bgpipe("submit", photos, *NANO, "--json")
    assert second.returncode == 0, second.stderr
    summary = read_summary(second)
    assert (summary["state"], summary["done"], summary["skipped"]) == ("finished", 0, 4)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == stamps


@pytest.mark.usefixtures("shared_cluster")
def test_what_changed_is_done_again_and_nothing_else(bgpipe: Bgpipe, photos: Path) -> None:
    assert bgpipe("submit", photos, *NANO).returncode == 0
    shutil.copy(photos / "coffee.png", photos / "chelsea.png")
    cutout = photos.with_name("photos-cutouts") / "astronaut.png"
    cutout.write_bytes(cutout.read_bytes()[:-20])
    summary = read_summary(bgpipe("submit", photos, *NANO, "--json"))
    assert (summary["done"], summary["skipped"]) == (2, 2)
    summary = read_summary(bgpipe("submit", photos, *NANO, "--preset", "raw", "--json"))
    assert (summary["done"], summary["skipped"]) == (4, 0)
    summary = read_summary(bgpipe("submit", photos, *NANO, "--preset", "raw", "--force", "--json"))
    assert (summary["done"], summary["skipped"]) == (4, 0)


@pytest.mark.usefixtures("shared_cluster")
def test_bad_files_are_named_and_the_others_are_done(bgpipe: Bgpipe, photos: Path) -> None:
    (photos / "empty.jpg").touch()
    (photos / "zero.png").touch()
    (photos / "text.jpg").write_text("this is no photo\n" * 50)
    whole = (photos / "sub folder" / "rökét 1.jpg").read_bytes()
    (photos / "short.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "x.jpg").mkdir()
    done = bgpipe("submit", photos, *NANO)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("4 cutouts in ")
    assert "E_TRUNCATED  short.jpg" in done.stdout
    failures = bgpipe.records("errors")
    assert {failure["source"]: failure["code"] for failure in failures} == {
        "empty.jpg": "E_EMPTY",
        "zero.png": "E_EMPTY",
        "text.jpg": "E_NOT_IMAGE",
        "short.jpg": "E_TRUNCATED",
        "x.jpg": "E_NOT_IMAGE",
    }
    (summary,) = bgpipe.records("status")
    assert summary["total"] == summary["done"] + summary["skipped"] + summary["failed"] == 9
    assert summary["errors"] == {"E_EMPTY": 2, "E_NOT_IMAGE": 2, "E_TRUNCATED": 1}
    assert not (photos.with_name("photos-cutouts") / "short.png").exists()


@pytest.mark.usefixtures("shared_cluster")
def test_colliding_names_keep_their_own_cutouts(bgpipe: Bgpipe, photos: Path) -> None:
    with Image.open(photos / "coffee.png") as image:
        image.save(photos / "coffee.jpg")
    assert bgpipe("submit", photos, *NANO, "--include", "coffee*").returncode == 0
    out = photos.with_name("photos-cutouts")
    assert sorted(path.name for path in out.iterdir()) == ["coffee.jpg.png", "coffee.png.png"]


@pytest.mark.usefixtures("shared_cluster")
def test_cutouts_inside_the_source_are_not_taken_for_sources(bgpipe: Bgpipe, photos: Path) -> None:
    for _ in range(2):
        done = bgpipe("submit", photos, *NANO, "--out", photos / "made", "--json")
        assert read_summary(done)["total"] == 4


@pytest.mark.usefixtures("shared_cluster")
def test_one_file_and_a_list_of_files_are_sources_too(bgpipe: Bgpipe, photos: Path) -> None:
    one = bgpipe("submit", photos / "coffee.png", *NANO, "--json")
    assert read_summary(one)["done"] == 1
    missing = photos / "gone.png"
    listed = bgpipe("submit", "-", *NANO, "--json", stdin=f"{photos / 'coffee.png'}\n{missing}\n")
    assert listed.returncode == 1
    assert read_summary(listed)["errors"] == {"E_MISSING": 1}
    assert read_summary(listed)["skipped"] == 1


def test_a_dry_run_counts_and_writes_nothing(bgpipe: Bgpipe, photos: Path) -> None:
    done = bgpipe("submit", photos, *NANO, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "4" in done.stdout
    assert not photos.with_name("photos-cutouts").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("submit", "nowhere"), 2, "no such file or folder: nowhere"),
        (("submit", "{photos}", "--out", "{photos}"), 2, "choose another --out"),
        (("submit", "{photos}", "--preset", "nice"), 2, "unknown preset: nice"),
        (("submit", "{photos}", "--set", "contrast=9"), 2, "contrast"),
        (("submit", "{photos}", "--set", "sharpen=1"), 2, "sharpen"),
        (("submit", "{photos}", "--size", "10"), 2, "size is not WIDTHxHEIGHT or empty: 10"),
        (("submit", "{photos}", "--set", "contrast"), 2, "--set"),
        (("submit", "{photos}", "--model", "birefnet-huge"), 2, "birefnet-huge"),
        (("submit", "{photos}", "--model", "birefnet-lite"), 4, "birefnet-lite"),
        (("submit", "{photos}", *NANO, "--matting", "vitmatte"), 4, "bgpipe models pull vitmatte"),
        (("submit", "{photos}", *NANO, "--matting", "birefnet-lite"), 2, "is for --model"),
        (("submit", "{photos}", "--model", "vitmatte"), 2, "vitmatte is for --matting"),
        (("submit", "{photos}", "--format", "tiff"), 2, "format"),
        (("submit", "{photos}", "--job", "a b"), 2, "a b"),
        (("submit", "{photos}", "--detach"), 2, "BGPIPE_REDIS_URL"),
        (("submit", "{photos}", "--include", "*.gif"), 3, "no images"),
        (("status", "unheard-of"), 2, "unheard-of"),
        (("worker",), 2, "BGPIPE_REDIS_URL"),
        (("--config", "none.toml", "jobs"), 2, "none.toml"),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(
    bgpipe: Bgpipe, photos: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = bgpipe(*(argument.format(photos=photos) for argument in arguments))
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_weights_for_edges_no_image_is_begun(bgpipe: Bgpipe, photos: Path) -> None:
    done = bgpipe("submit", photos, *NANO, BGPIPE_MATTING__MODEL="vitmatte")
    assert done.returncode == 4
    assert "model not on this machine: vitmatte" in done.stderr
    assert "--matting PATH, or omit it" in done.stderr
    assert bgpipe.records("jobs") == []
    assert bgpipe("submit", photos, *NANO, "--matting", "none", "--dry-run").returncode == 0


def test_redis_that_does_not_answer_is_exit_4(bgpipe: Bgpipe, photos: Path) -> None:
    done = bgpipe("submit", photos, *NANO, BGPIPE_REDIS_URL="redis://:secret@127.0.0.1:9/0")
    assert done.returncode == 4
    assert "127.0.0.1:9" in done.stderr
    assert "secret" not in done.stderr


def test_without_a_hub_auto_falls_back_to_the_bundled_model_and_says_so(
    bgpipe: Bgpipe, photos: Path
) -> None:
    done = bgpipe("submit", photos, "--include", "coffee.png", "--json")
    assert done.returncode == 0, done.stderr
    assert "birefnet-nano" in done.stderr
    assert read_summary(done)["model"] == "birefnet-nano"
    with Image.open(photos.with_name("photos-cutouts") / "coffee.png") as image:
        assert json.loads(image.text["bgpipe:recipe"])["model"] == "birefnet-nano"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_job_is_resumed(
    bgpipe: Bgpipe, photos: Path, number: signal.Signals
) -> None:
    for n in range(12):
        shutil.copy(photos / "coffee.png", photos / f"coffee {n}.png")
    out = photos.with_name("photos-cutouts")
    command = bgpipe.start("submit", photos, *NANO, "--job", "long")
    deadline = time.monotonic() + 120
    while not list(out.rglob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(command.pid, number)
    _, words = command.communicate(timeout=60)
    assert command.returncode == 130, words
    assert "bgpipe resume long" in words
    assert not [path for path in out.rglob("*") if path.is_file() and path.suffix != ".png"]
    done = bgpipe("resume", "long", "--json")
    assert done.returncode == 0, done.stderr
    assert (read_summary(done)["state"], read_summary(done)["done"]) == ("finished", 16)
    assert len(list(out.rglob("*.png"))) == 16


def test_two_jobs_at_once_share_one_server(bgpipe: Bgpipe, photos: Path, tmp_path: Path) -> None:
    jobs = [
        bgpipe.start("submit", photos, *NANO, "--out", tmp_path / name, "--json", "--job", name)
        for name in ("one", "two")
    ]
    for job in jobs:
        output, words = job.communicate(timeout=200)
        assert job.returncode == 0, words
        assert json.loads(output.splitlines()[-1])["done"] == 4
    assert {summary["job"] for summary in bgpipe.records("jobs")} == {"one", "two"}


@pytest.mark.usefixtures("shared_cluster")
def test_prune_lists_first_and_removes_the_cutouts_of_deleted_photos(
    bgpipe: Bgpipe, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "photos-cutouts"
    photos.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (64, 48), "teal").save(photos / name)
    assert bgpipe("submit", photos, *NANO).returncode == 0
    (out / "theirs.png").write_bytes(b"foreign")
    (photos / "b.jpg").unlink()

    refused = bgpipe("submit", photos, *NANO, "--prune")
    assert (refused.returncode, "BGPIPE_PRUNE__MOST" in refused.stderr) == (2, True)
    half = {"BGPIPE_PRUNE__MOST": "0.5"}
    listed = bgpipe("submit", photos, *NANO, "--prune", "--dry-run", "--json", **half)
    orphan, forecast = map(json.loads, listed.stdout.splitlines())
    assert orphan == {"orphan": "b.png", "source": "b.jpg"}
    assert forecast["deleted"] == 1
    assert (out / "b.png").exists()
    done = bgpipe("submit", photos, *NANO, "--prune", "--json", **half)
    assert (read_summary(done)["total"], read_summary(done)["skipped"]) == (2, 2), done.stderr
    assert {path.name for path in out.glob("*.png")} == {"a.png", "c.png", "theirs.png"}


@pytest.mark.usefixtures("shared_cluster")
def test_the_contact_sheet_carries_its_pictures(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path
) -> None:
    (photos / "<b>.jpg").touch()
    assert bgpipe("submit", photos, *NANO).returncode == 1
    assert bgpipe("report", "--out", tmp_path / "sheet.html").returncode == 0
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp;base64,") == 8
    assert "&lt;b&gt;.jpg" in page
    assert "<b>.jpg" not in page
    assert "://" not in page


def test_help_answers_at_once(bgpipe: Bgpipe) -> None:
    """In processor time, which a busy machine does not stretch as it does the clock's."""
    seconds = []
    for _ in range(5):
        before = os.times()
        assert bgpipe("--help").returncode == 0
        after = os.times()
        seconds.append(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
    assert min(seconds) < 0.5


def test_doctor_and_models_tell_what_is_there(bgpipe: Bgpipe) -> None:
    done = bgpipe("doctor")
    assert done.returncode == 0, done.stderr
    assert "redis" in done.stdout.lower()
    names = {record["name"] for record in bgpipe.records("models", "list")}
    assert {"birefnet-general", "birefnet-nano"} <= names
    assert bgpipe("models", "verify", "birefnet-nano").returncode == 0
    assert Path(bgpipe("models", "path", "birefnet-nano").stdout.strip()).is_file()
    assert bgpipe("models", "pull", "birefnet-lite").returncode == 4


@pytest.mark.slow
@pytest.mark.usefixtures("shared_cluster")
def test_all_photos_with_ground_truth(bgpipe: Bgpipe, shared: Path, tmp_path: Path) -> None:
    photos = shared / "images" / "quality"
    order = ("submit", photos, "--exclude", "*_alpha.png", *NANO, "--out", tmp_path / "cutouts")
    first = bgpipe(*order, "--json")
    assert first.returncode == 0, first.stderr
    assert (read_summary(first)["total"], read_summary(first)["done"]) == (120, 120)
    index = json.loads((photos / "index.json").read_text())
    for entry in index:
        cutout = (tmp_path / "cutouts" / entry["file"]).with_suffix(".png")
        assert_cutout(photos / entry["file"], cutout)
    second = bgpipe(*order, "--json")
    assert (read_summary(second)["done"], read_summary(second)["skipped"]) == (0, 120)
