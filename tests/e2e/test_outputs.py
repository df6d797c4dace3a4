"""Several outputs of each image: submitted, failed in part, retried, swept into a bucket and pruned."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.conftest import S3Server

    from .conftest import Bgpipe

OUTPUTS = """
[outputs.web]
format = "webp"
size = "40x40"
background = "blur:3"
[outputs.print]
preset = "products"
outline = "2:white"
[outputs.mask]
format = "mask"
name = "masks/{folder}/{stem}"
"""
NAMES = "web,print,mask"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two photos with a subject, one of them in a folder."""
    folder = tmp_path / "photos"
    (folder / "d").mkdir(parents=True)
    for name in ("a.jpg", "d/b.png"):
        image = Image.new("RGB", (96, 64), "navy")
        image.paste("orange", (24, 16, 72, 48))
        image.save(folder / name)
    return folder


def run(bgpipe: Bgpipe, *arguments: object, code: int = 0, **environment: str) -> dict[str, Any]:
    """The last record of a command that ends with `code`."""
    done = bgpipe("--json", *arguments, **environment)
    assert done.returncode == code, done.stderr
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def counts(record: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Files done, skipped and failed by output."""
    return {name: tuple(files.values()) for name, files in record["outputs"].items()}


@pytest.mark.usefixtures("shared_cluster")
def test_what_failed_of_an_image_is_made_again_and_nothing_else_is(
    bgpipe: Bgpipe, small: Path, tmp_path: Path
) -> None:
    (bgpipe.home / "bgpipe.toml").write_text(OUTPUTS)
    out = tmp_path / "out"
    submit = ("submit", small, "--out", out, "--model", "birefnet-nano", "--outputs", NAMES)
    (out / "d").mkdir(parents=True)
    foreign = out / "d/b-print.png"
    foreign.write_bytes(b"foreign")
    planned = run(bgpipe, *submit, "--dry-run")["outputs"]
    assert planned["print"] == {"skipped": 0, "new": 1, "changed": 0, "foreign": 1}
    first = run(bgpipe, *submit, "--wait", code=1)
    assert (first["total"], first["done"], first["failed"]) == (2, 1, 1)
    assert counts(first) == {"web": (2, 0, 0), "print": (1, 0, 1), "mask": (2, 0, 0)}
    error = run(bgpipe, "errors")
    assert (error["source"], error["code"]) == ("d/b.png", "E_TARGET")
    assert error["detail"].startswith("print: E_TARGET: exists and was not made by bgpipe")
    with Image.open(out / "d/b-web.webp") as web, Image.open(out / "masks/d/b.png") as mask:
        assert (web.size, web.mode, mask.size, mask.mode) == ((40, 27), "RGB", (96, 64), "L")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path != foreign}
    foreign.unlink()
    again = run(bgpipe, "retry", "--wait")
    assert counts(again) == {"web": (2, 0, 0), "print": (2, 0, 0), "mask": (2, 0, 0)}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with Image.open(out / "d/b-print.png") as cutout:
        assert json.loads(cutout.info["bgpipe:recipe"])["preset"]["outline"] == "2:white"
    (out / "a-web.webp").unlink()
    third = run(bgpipe, *submit, "--wait")
    assert (third["total"], third["done"], third["skipped"]) == (2, 1, 1)
    assert counts(third) == {"web": (1, 1, 0), "print": (0, 2, 0), "mask": (0, 2, 0)}
    assert counts(run(bgpipe, "status")) == counts(third)
    assert "web: 1 done, 1 up to date" in bgpipe("status").stdout
    page = tmp_path / "sheet.html"
    assert bgpipe("report", "--out", page).returncode == 0
    assert "outputs: web 1, print 0, mask 0" in page.read_text()


@pytest.mark.usefixtures("shared_cluster")
def test_a_sweep_makes_outputs_in_a_bucket_and_prunes_all_of_a_lost_photo(
    bgpipe: Bgpipe, small: Path, s3: S3Server
) -> None:
    bucket = s3.make_bucket()
    sweep = {"source": str(small), "target": bucket, "model": "birefnet-nano", "prune": True}
    sweep |= {"outputs": NAMES.split(","), "prune_most": 0.5}
    lines = [f"{name} = {json.dumps(value)}" for name, value in sweep.items()]
    (bgpipe.home / "bgpipe.toml").write_text("\n".join([OUTPUTS, "[sweeps.night]", *lines]))
    command = ("sweep", "run", "night", "--wait")
    made = run(bgpipe, *command, **s3.environment)
    assert counts(made) == {"web": (2, 0, 0), "print": (2, 0, 0), "mask": (2, 0, 0)}
    keys = ["a-print.png", "a-web.webp", "masks/a.png"]
    lost = ["d/b-print.png", "d/b-web.webp", "masks/d/b.png"]
    assert [key for key in s3.keys(bucket) if not key.startswith(".")] == sorted(keys + lost)
    data = s3.get(f"{bucket}/a-web.webp")["Body"].read()
    assert Image.open(io.BytesIO(data)).size == (40, 27)
    (small / "d/b.png").unlink()
    again = run(bgpipe, *command, **s3.environment)
    assert counts(again) == {"web": (0, 1, 0), "print": (0, 1, 0), "mask": (0, 1, 0)}
    assert [key for key in s3.keys(bucket) if not key.startswith(".")] == keys


def test_outputs_that_cannot_be_are_refused_before_anything_is_done(
    bgpipe: Bgpipe, small: Path
) -> None:
    (bgpipe.home / "bgpipe.toml").write_text(OUTPUTS + '[outputs.bad]\npreset = "none"\n')
    refused = bgpipe("submit", small, "--outputs", "web,poster")
    assert refused.returncode == 2
    assert "unknown output: poster (the settings declare: web, print, mask, bad)" in refused.stderr
    one = bgpipe("submit", small / "a.jpg", "--out", "a.png", "--outputs", "web")
    assert "--outputs needs a folder or a prefix" in one.stderr
    checked = bgpipe("config", "check")
    assert 'outputs.bad.preset: unknown preset "none"' in checked.stderr + checked.stdout
