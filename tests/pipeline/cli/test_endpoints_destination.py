from __future__ import annotations

from pathlib import Path

import pytest

from bgpipe.pipeline.cli.endpoints import Destination, Source, find_destination
from bgpipe.pipeline.errors import UsageError

ONE = Source("/photos", ("a.jpg",))


def test_without_dest_the_cutouts_are_beside_the_source() -> None:
    assert find_destination(None, ONE) == Destination("/photos-cutouts")


def test_the_name_of_a_file_is_that_of_the_only_cutout(tmp_path: Path) -> None:
    assert find_destination(f"{tmp_path}/out.png", ONE) == Destination(str(tmp_path), "out.png")
    assert find_destination("s3://b/x/out.webp", ONE) == Destination("s3://b/x", "out.webp")
    assert find_destination("/out.png", ONE) == Destination("/", "out.png")


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "there.png").mkdir()
    for name in ("there.png", "new.png/", "cutouts", "cutouts.v2"):
        found = find_destination(f"{tmp_path}/{name}", ONE)
        assert found == Destination(str(tmp_path / name))


@pytest.mark.parametrize("keys", [None, ("a.jpg", "b.jpg")])
def test_several_images_do_not_go_into_one_file(keys: tuple[str, ...] | None) -> None:
    with pytest.raises(UsageError, match="the name of one file"):
        find_destination("out.png", Source("/photos", keys))


@pytest.mark.parametrize(
    ("file", "requested", "written"),
    [
        ("", None, None),
        ("", "webp", "webp"),
        ("cutout", "webp", "webp"),
        ("a.png", None, "png"),
        ("a.png", "mask", "mask"),
        ("a.JPEG", None, "jpeg"),
        ("a.jpg", "jpeg", "jpeg"),
    ],
)
def test_the_name_of_a_file_says_its_format(
    file: str, requested: str | None, written: str | None
) -> None:
    assert Destination("/", file).format(requested) == written


def test_a_name_and_a_format_that_contradict_each_other_are_refused() -> None:
    for file, requested in (("a.png", "webp"), ("a.jpg", "mask")):
        with pytest.raises(UsageError, match=f"--format {requested}"):
            Destination("/", file).format(requested)
