from __future__ import annotations

import re
from pathlib import Path

import pytest

from bgpipe.pipeline.cli.endpoints import Source, find_source
from bgpipe.pipeline.errors import NoImages, UsageError
from bgpipe.pipeline.planning.planner import IgnoredObjects
from bgpipe.pipeline.storage.factory import find_location


def listed(tmp_path: Path, *lines: object) -> Source:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return find_source([f"@{path}"], IgnoredObjects())


def test_a_folder_is_all_of_it_and_a_file_is_one_key(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert find_source([str(tmp_path)], IgnoredObjects()) == Source(str(tmp_path), None)
    assert find_source([str(tmp_path / "a.jpg")], IgnoredObjects()) == Source(
        str(tmp_path), ("a.jpg",)
    )
    with pytest.raises(UsageError, match=r"b\.jpg"):
        find_source([str(tmp_path / "b.jpg")], IgnoredObjects())


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("s3://bucket", Source("s3://bucket", None)),
        ("s3://bucket/", Source("s3://bucket", None)),
        ("s3://bucket/photos/2024/", Source("s3://bucket/photos/2024", None)),
        ("s3://bucket/photos/a b.JPG", Source("s3://bucket/photos", ("a b.JPG",))),
        ("s3://bucket/photos/folder.jpg/", Source("s3://bucket/photos/folder.jpg", None)),
    ],
)
def test_an_address_in_a_bucket_is_a_prefix_or_an_image(text: str, source: Source) -> None:
    assert find_source([text], IgnoredObjects()) == source


def test_a_list_of_files_has_the_deepest_folder_of_all_as_its_root(tmp_path: Path) -> None:
    names = ("p/a/1.jpg", "p/a/2.jpg", "p/ab/3.jpg", "p/a/1.jpg")
    assert listed(tmp_path, *(tmp_path / name for name in names)) == Source(
        str(tmp_path / "p"), ("a/1.jpg", "a/2.jpg", "ab/3.jpg")
    )
    assert listed(tmp_path, tmp_path / "a.jpg", "/b.jpg").root == "/"


def test_a_list_may_name_objects_of_one_bucket(tmp_path: Path) -> None:
    assert listed(tmp_path, "s3://b/x/1.jpg", "s3://b/x/y//2.jpg") == Source(
        "s3://b/x", ("1.jpg", "y//2.jpg")
    )
    assert listed(tmp_path, "s3://b/1.jpg") == Source("s3://b", ("1.jpg",))
    for other in ("s3://c/2.jpg", "/photos/2.jpg"):
        with pytest.raises(UsageError, match="sources of several stores"):
            listed(tmp_path, "s3://b/1.jpg", other)
    with pytest.raises(UsageError, match="is empty"):
        listed(tmp_path)


def test_cutouts_go_beside_their_source() -> None:
    assert Source("/photos", None).default_out == "/photos-cutouts"
    assert Source("s3://bucket/photos", None).default_out == "s3://bucket/photos-cutouts"
    for root in ("s3://bucket", "/"):
        with pytest.raises(UsageError, match="--out"):
            _ = Source(root, None).default_out


def test_several_sources_are_one_below_their_common_folder(tmp_path: Path) -> None:
    for name in (
        "p/a.jpg",
        "p/sub/b.png",
        "p/sub/notes.txt",
        "p/sub/c.mov",
        "p/list.csv",
        "p/0a1b",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    ignored = IgnoredObjects()
    source = find_source([str(path) for path in (tmp_path / "p").iterdir()], ignored)
    assert source == Source(str(tmp_path / "p"), ("0a1b", "a.jpg", "sub/b.png"))
    assert str(ignored) == "3 ignored: 1 .csv, 1 .mov, 1 .txt are not read"
    with pytest.raises(NoImages, match=r"1 ignored: 1 \.csv is not read"):
        find_source([str(tmp_path / "p/list.csv"), str(tmp_path / "empty")], IgnoredObjects())
    bucket = find_source(["s3://b/x/1.jpg", "s3://b/x/y/2.jpg"], IgnoredObjects())
    assert bucket == Source("s3://b/x", ("1.jpg", "y/2.jpg"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["gs://bucket/photos"], "unsupported scheme: gs://bucket/photos"),
        (["az://bucket"], "unsupported scheme"),
        (["https://shop.example/a.jpg"], "unsupported scheme"),
        (["s3://"], "no bucket named: s3://"),
        (["s3:///photos"], "no bucket named"),
        (["s3://b/1.jpg", "s3://b/photos"], "a prefix cannot be combined"),
        (["s3://b/1.jpg", "s3://c/1.jpg"], "sources of several stores"),
        (["s3://b/1.jpg", "@list.txt"], "a list cannot be combined"),
    ],
)
def test_what_cannot_be_a_source_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        find_source(texts, IgnoredObjects())


def test_a_target_is_a_bucket_or_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_location("s3://bucket/x") == "s3://bucket/x"
    assert find_location("out/../x") == str(tmp_path / "x")
