"""What a submit takes and leaves: several sources, one file, the standard streams, foreign files."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import CompletedProcess

    from ..support.s3_server import S3Server
    from .conftest import Bgpipe

NANO = ("--model", "birefnet-nano", "--wait")
SECONDS = 120.0


def read_summary(done: CompletedProcess[str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def picture(path: Path, colour: str = "teal") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), colour).save(path)
    return path


def await_true(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "shots" / name)
    return tmp_path / "shots"


@pytest.mark.usefixtures("shared_cluster")
def test_a_file_that_bgpipe_did_not_make_is_never_replaced(bgpipe: Bgpipe, folder: Path) -> None:
    out = folder.with_name("shots-cutouts")
    theirs = picture(out / "a.png", "gold").read_bytes()
    planned = bgpipe("submit", folder, *NANO, "--dry-run", "--json")
    assert (read_summary(planned)["foreign"], read_summary(planned)["new"]) == (1, 1)
    for options in ((), ("--force",)):
        done = bgpipe("submit", folder, *NANO, *options)
        assert done.returncode == 1, done.stderr
        assert (
            "E_TARGET  a.jpg: exists and was not made by bgpipe: pass --overwrite or choose another "
            "--out: a.png" in done.stdout
        )
        assert (out / "a.png").read_bytes() == theirs
    retried = bgpipe("retry", "--wait")
    assert retried.returncode == 1, retried.stderr
    assert (out / "a.png").read_bytes() == theirs

    done = bgpipe("submit", folder, *NANO, "--overwrite", "--json")
    assert (read_summary(done)["done"], read_summary(done)["skipped"]) == (1, 1), done.stderr
    with Image.open(out / "a.png") as image:
        assert "bgpipe:recipe" in image.text
    assert read_summary(bgpipe("submit", folder, *NANO, "--json"))["skipped"] == 2


@pytest.mark.usefixtures("shared_cluster")
def test_a_foreign_object_in_a_bucket_is_never_replaced(
    bgpipe: Bgpipe, folder: Path, s3: S3Server
) -> None:
    bucket = s3.make_bucket()
    s3.put(f"{bucket}/cutouts/a.png", b"theirs")
    submit = ("submit", folder, *NANO, "--out", f"{bucket}/cutouts", "--json")
    done = bgpipe(*submit, **s3.environment)
    assert done.returncode == 1, done.stderr
    assert (read_summary(done)["done"], read_summary(done)["errors"]) == (1, {"E_TARGET": 1})
    assert s3.get(f"{bucket}/cutouts/a.png")["Body"].read() == b"theirs"
    done = bgpipe(*submit, "--overwrite", **s3.environment)
    assert (read_summary(done)["done"], read_summary(done)["skipped"]) == (1, 1), done.stderr
    # What another program re-encoded with our metadata kept is ours still.
    made = s3.get(f"{bucket}/cutouts/a.png")["Metadata"]
    name, _, key = f"{bucket}/cutouts/b.png".removeprefix("s3://").partition("/")
    s3.client.put_object(Bucket=name, Key=key, Body=b"smaller", Metadata=made)
    assert read_summary(bgpipe(*submit, **s3.environment))["done"] == 1


@pytest.mark.usefixtures("shared_cluster")
def test_a_cutout_is_not_taken_as_a_source(bgpipe: Bgpipe, folder: Path, s3: S3Server) -> None:
    assert bgpipe("submit", folder, *NANO).returncode == 0
    cutout = folder.with_name("shots-cutouts") / "a.png"
    shutil.copy(cutout, folder / "z.png")
    done = bgpipe("submit", folder, *NANO, "--json")
    assert (done.returncode, read_summary(done)["total"]) == (0, 2)
    assert read_summary(done)["ignored"] == {"made by bgpipe": 1}
    alone = bgpipe("submit", cutout, *NANO, "--out", folder / "again")
    assert alone.returncode == 3
    assert "1 ignored: 1 made by bgpipe" in alone.stderr
    bucket = s3.make_bucket()
    s3.put(f"{bucket}/a.png", cutout.read_bytes())
    done = bgpipe("submit", bucket, *NANO, "--out", folder / "c", "--json", **s3.environment)
    assert read_summary(done)["errors"] == {"E_UNSUPPORTED": 1}


@pytest.mark.usefixtures("shared_cluster")
def test_ignored_files_are_counted_by_suffix(bgpipe: Bgpipe, folder: Path) -> None:
    for name in ("1.MOV", "2.MOV", "x/3.ai", "4.psd", "README", ".hidden.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no photo")
    done = bgpipe("submit", folder, *NANO, "--exclude", "b.*")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "6 ignored: 2 .MOV, 1 .ai, 1 .psd, 1 without suffix are not read; 1 excluded"
    )
    assert done.stdout.startswith("1 cutout in ")
    for name in ("a.jpg", "b.jpg"):
        (folder / name).unlink()
    nothing = bgpipe("submit", folder, *NANO)
    assert nothing.returncode == 3
    assert "2 .MOV, 1 .ai, 1 .psd, 1 without suffix are not read" in nothing.stderr


@pytest.mark.usefixtures("shared_cluster")
def test_keys_without_a_suffix_are_judged_by_their_content(
    bgpipe: Bgpipe, folder: Path, tmp_path: Path, s3: S3Server
) -> None:
    bucket = s3.make_bucket()
    s3.put(f"{bucket}/objects/0a1b2c", (folder / "a.jpg").read_bytes())
    s3.put(f"{bucket}/objects/3d4e5f", b"no photo")
    done = bgpipe(
        "submit", f"{bucket}/objects", *NANO, "--out", tmp_path / "out", "--json", **s3.environment
    )
    assert (done.returncode, read_summary(done)["done"]) == (0, 1), done.stderr
    assert read_summary(done)["ignored_suffixes"] == {"without suffix": 1}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0a1b2c.png"]


@pytest.mark.usefixtures("shared_cluster")
def test_several_sources_are_one_job(bgpipe: Bgpipe, folder: Path, tmp_path: Path) -> None:
    picture(tmp_path / "more" / "sub" / "c.png")
    picture(tmp_path / "d.png")
    (tmp_path / "notes.txt").touch()
    sources = (folder, tmp_path / "more", tmp_path / "d.png", tmp_path / "notes.txt")
    done = bgpipe("submit", *sources, *NANO, "--out", tmp_path / "out", "--json")
    assert (done.returncode, read_summary(done)["done"]) == (0, 4), done.stderr
    assert read_summary(done)["ignored_suffixes"] == {".txt": 1}
    made = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.glob("out/**/*.png")}
    assert made == {"shots/a.png", "shots/b.png", "more/sub/c.png", "d.png"}


@pytest.mark.usefixtures("shared_cluster")
def test_one_image_may_go_to_a_file(bgpipe: Bgpipe, folder: Path) -> None:
    done = bgpipe("submit", "shots/a.jpg", "-o", "shots/out.webp", *NANO)
    assert done.returncode == 2  # the command runs elsewhere
    done = bgpipe("submit", folder / "a.jpg", "-o", folder / "out.webp", *NANO)
    assert done.returncode == 0, done.stderr
    assert f"1 cutout: {folder}/out.webp" in done.stdout
    with Image.open(folder / "out.webp") as image:
        assert (image.format, image.mode, image.size) == ("WEBP", "RGBA", (64, 48))
    again = bgpipe("submit", folder / "a.jpg", "-o", folder / "out.webp", *NANO, "--json")
    assert read_summary(again)["skipped"] == 1
    source = (folder / "a.jpg").read_bytes()
    onto = ("submit", folder / "a.jpg", "-o", folder / "a.jpg", *NANO, "--format", "jpeg")
    assert bgpipe(*onto, "--overwrite").returncode == 2
    assert (folder / "a.jpg").read_bytes() == source
    theirs = picture(folder / "theirs.png", "gold").read_bytes()
    refused = bgpipe("submit", folder / "a.jpg", "-o", folder / "theirs.png", *NANO)
    assert (refused.returncode, "E_TARGET" in refused.stdout) == (1, True)
    assert (folder / "theirs.png").read_bytes() == theirs


def piped(bgpipe: Bgpipe, data: bytes, *options: object) -> CompletedProcess[bytes]:
    return subprocess.run(
        bgpipe.command(("submit", "-", *NANO, *options)),
        env=bgpipe.environment,
        input=data,
        capture_output=True,
        cwd=bgpipe.home,
        check=False,
        timeout=SECONDS,
    )


def test_one_image_goes_from_stdin_to_stdout(bgpipe: Bgpipe, photos: Path, tmp_path: Path) -> None:
    data = (photos / "coffee.png").read_bytes()
    done = piped(bgpipe, data, "--out", "-")
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.format, image.mode) == ("PNG", "RGBA")
        through_pipe = np.asarray(image)
    assert bgpipe("submit", photos / "coffee.png", *NANO, "-o", tmp_path / "c.png").returncode == 0
    with Image.open(tmp_path / "c.png") as image:
        assert (np.asarray(image) == through_pipe).all()
    webp = piped(bgpipe, data, "--out", "-", "--format", "webp")
    assert webp.stdout[8:12] == b"WEBP"
    assert piped(bgpipe, data, "--out", tmp_path / "d.png").returncode == 0
    assert (tmp_path / "d.png").stat().st_size > 1000
    names = {record["job"] for record in bgpipe.records("jobs")}
    assert len(names) == 1  # what went through a pipe leaves no job behind


def test_a_bad_image_on_stdin_leaves_stdout_empty(bgpipe: Bgpipe, photos: Path) -> None:
    whole = (photos / "sub folder" / "rökét 1.jpg").read_bytes()
    done = piped(bgpipe, whole[: len(whole) // 2], "--out", "-")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"E_TRUNCATED" in done.stderr
    for data, options, words in (
        (whole, (), b"pass --out FILE or -"),
        (whole, ("--out", "-", "--json"), b"--json"),
        (b"\xff\xfe\x00", ("--out", "-"), b"neither an image nor a list"),
        (b"", ("--out", "-"), b"the list is empty"),
    ):
        refused = piped(bgpipe, data, *options)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr


@pytest.mark.parametrize("address", ["s3://", "gs://b/x", "az://b", "https://shop.example/a.jpg"])
def test_unsupported_addresses_are_exit_2(bgpipe: Bgpipe, folder: Path, address: str) -> None:
    for arguments in ((address,), (folder, "--out", address)):
        done = bgpipe("submit", *arguments, *NANO)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_target_that_cannot_be_written_is_found_before_a_worker_starts(
    bgpipe: Bgpipe, folder: Path
) -> None:
    (folder.parent / "file").write_text("in the way")
    for out in ("file", "file/below"):
        done = bgpipe("submit", folder, *NANO, "--out", folder.parent / out)
        assert (done.returncode, "is a file" in done.stderr) == (2, True), done.stderr
    done = bgpipe("submit", folder, *NANO, "--out", "/proc/cutouts")
    assert (done.returncode, "is not writable: /proc" in done.stderr) == (4, True), done.stderr
    done = bgpipe("submit", folder, *NANO, "--out", "s3://nowhere-to-be-found/x")
    assert done.returncode in {2, 4}
    assert not (bgpipe.home / "state" / "bgpipe" / "worker.log").exists()


def test_the_bundled_model_is_warned_of_once_the_source_was_checked(
    bgpipe: Bgpipe, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    nothing = bgpipe("submit", tmp_path / "empty")
    assert (nothing.returncode, len(nothing.stderr.splitlines())) == (3, 1)
    done = bgpipe("submit", folder)
    slow = "waiting for a worker"  # said on a machine that has much else to do
    (warning,) = [line for line in done.stderr.splitlines() if not line.startswith(slow)]
    assert warning.startswith("warning: birefnet-general is not on this machine")
    assert "bgpipe models pull birefnet-general" in warning


@pytest.mark.usefixtures("shared_cluster")
def test_a_report_opens_in_the_browser(bgpipe: Bgpipe, folder: Path, tmp_path: Path) -> None:
    assert bgpipe("submit", folder, *NANO).returncode == 0
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 > {tmp_path}/opened\n")
    browser.chmod(0o755)
    sheet = tmp_path / "sheet.html"
    done = bgpipe("report", "--out", sheet, "--open", BROWSER=f"{browser} %s")
    assert done.returncode == 0, done.stderr
    await_true((tmp_path / "opened").exists, "no browser was started")
    assert (tmp_path / "opened").read_text().strip() == sheet.as_uri()


def test_watching_makes_cutouts_of_what_arrives_and_is_complete(
    bgpipe: Bgpipe, folder: Path, photos: Path
) -> None:
    out = folder.with_name("shots-cutouts")
    command = bgpipe.start("submit", folder, *NANO, "--watch")
    try:
        await_true((out / "b.png").exists, "the first files are not done")
        data = (photos / "coffee.png").read_bytes()
        with (folder / "slow.png").open("wb") as file:  # grows over several listings
            for start in range(0, len(data), len(data) // 8 + 1):
                file.write(data[start : start + len(data) // 8 + 1])
                file.flush()
                time.sleep(0.7)
        await_true((out / "slow.png").exists, "the slow file is not done")
        picture(folder / "sub" / "late.jpg")
        await_true((out / "sub" / "late.png").exists, "the late file is not done")
    finally:
        command.send_signal(signal.SIGINT)
        output, words = command.communicate(timeout=60)
    assert command.returncode in {0, 130}, words
    assert "watching " in output
    assert "E_TRUNCATED" not in output
    records = bgpipe.records("jobs")
    assert sum(record["failed"] for record in records) == 0
    assert bgpipe("submit", folder, *NANO).returncode == 0
