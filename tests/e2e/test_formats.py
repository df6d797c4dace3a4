"""What submit can make of a photo besides a plain PNG, and that it knows what it has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ..pipeline.images.files import dng, mosaic

if TYPE_CHECKING:
    from .conftest import Bgpipe

NANO = ("--model", "birefnet-nano", "--include", "chelsea*", "--wait", "--json")


def read_summary(bgpipe: Bgpipe, *arguments: object) -> dict[str, object]:
    done = bgpipe("submit", *arguments, *NANO)
    assert done.returncode == 0, done.stderr
    record: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return record


@pytest.mark.usefixtures("shared_cluster")
def test_a_catalogue_picture_is_made_once_and_framed_as_asked(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path
) -> None:
    order = (photos, "--out", tmp_path / "shop", "--preset", "catalogue", "--canvas", "300x200")
    jpeg = ("--format", "jpeg", "--name", "{stem}-shop")
    assert read_summary(bgpipe, *order, *jpeg)["done"] == 1
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["chelsea-shop.jpg"]
    with Image.open(tmp_path / "shop" / "chelsea-shop.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (300, 200))
        assert (np.asarray(image)[:3, :3] > 245).all()
    assert read_summary(bgpipe, *order, *jpeg)["skipped"] == 1


@pytest.mark.usefixtures("shared_cluster")
def test_a_cutout_in_another_format_is_done_again_when_it_was_cut_short(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path
) -> None:
    order = (photos, "--out", tmp_path / "out", "--format", "webp")
    assert read_summary(bgpipe, *order)["done"] == 1
    cutout = tmp_path / "out" / "chelsea.webp"
    cutout.write_bytes(cutout.read_bytes()[:-1])
    assert read_summary(bgpipe, *order)["done"] == 1


@pytest.mark.usefixtures("shared_cluster")
def test_a_cameras_raw_photo_becomes_a_cutout(bgpipe: Bgpipe, tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    linear = np.full((120, 160, 3), 4_000, np.uint16)
    linear[30:90, 40:120] = (50_000, 20_000, 5_000)
    (tmp_path / "shoot").mkdir()
    (tmp_path / "shoot/DSC_1.NEF").write_bytes(dng(mosaic(linear), orientation=6))
    done = bgpipe("submit", tmp_path / "shoot", "--model", "birefnet-nano", "--wait", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(tmp_path / "shoot-cutouts/DSC_1.png") as image:
        assert (image.mode, image.size) == ("RGBA", (120, 160))
        red, _, blue, alpha = np.asarray(image)[80, 60]
        assert (alpha, red > 200, blue < 100) == (255, True, True)


def test_what_cannot_be_written_is_refused(bgpipe: Bgpipe, photos: Path) -> None:
    done = bgpipe("submit", photos, *NANO, "--format", "tiff")
    assert done.returncode == 2
    assert "format: input should be" in done.stderr
