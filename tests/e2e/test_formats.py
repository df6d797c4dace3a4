"""What submit can make of a photo besides a plain PNG, and that it knows what it has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from .conftest import Bgpipe

NANO = ("--model", "birefnet-nano", "--include", "chelsea*", "--json")


def books(bgpipe: Bgpipe, *arguments: object) -> dict[str, object]:
    done = bgpipe("submit", *arguments, *NANO)
    assert done.returncode == 0, done.stderr
    record: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return record


def test_a_catalogue_picture_is_made_once_and_framed_as_asked(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path
) -> None:
    order = (photos, "--out", tmp_path / "shop", "--preset", "catalogue", "--canvas", "300x200")
    jpeg = ("--format", "jpeg", "--name", "{stem}-shop")
    assert books(bgpipe, *order, *jpeg)["done"] == 1
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["chelsea-shop.jpg"]
    with Image.open(tmp_path / "shop" / "chelsea-shop.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (300, 200))
        assert (np.asarray(image)[:3, :3] > 245).all()
    assert books(bgpipe, *order, *jpeg)["skipped"] == 1


def test_a_cutout_in_another_format_is_done_again_when_it_was_cut_short(
    bgpipe: Bgpipe, photos: Path, tmp_path: Path
) -> None:
    order = (photos, "--out", tmp_path / "out", "--format", "webp")
    assert books(bgpipe, *order)["done"] == 1
    cutout = tmp_path / "out" / "chelsea.webp"
    cutout.write_bytes(cutout.read_bytes()[:-1])
    assert books(bgpipe, *order)["done"] == 1


def test_what_cannot_be_written_is_refused(bgpipe: Bgpipe, photos: Path) -> None:
    done = bgpipe("submit", photos, *NANO, "--format", "tiff")
    assert done.returncode == 2
    assert "format: input should be" in done.stderr
