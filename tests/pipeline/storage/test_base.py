from __future__ import annotations

from pathlib import Path

import pytest

from bgpipe.pipeline.storage.base import contains, prefix_within


@pytest.mark.parametrize(
    ("outer", "inner", "prefix"),
    [
        ("s3://shop", "s3://shop", ""),
        ("s3://shop/", "s3://shop", ""),
        ("s3://shop", "s3://shop/spring/shoes", "spring/shoes/"),
        ("s3://shop/spring", "s3://shop/spring/", ""),
        ("s3://shop/spring", "s3://shop/spring-2", None),
        ("s3://shop/spring", "s3://shop", None),
        ("s3://shop", "s3://shop-2/spring", None),
        ("s3://shop", "/shop", None),
        ("/", "s3://shop", None),
        ("/", "/photos", "photos/"),
        ("/photos", "/photos/", ""),
        ("/photos", "/photos/shoes", "shoes/"),
        ("/photos", "/photos-2", None),
        ("/photos/shoes", "/photos", None),
        ("/photos", "/photos/../secret", None),
    ],
)
def test_a_location_contains_itself_and_what_is_below_it(
    outer: str, inner: str, prefix: str | None
) -> None:
    assert prefix_within(outer, inner) == prefix
    assert contains(outer, inner) is (prefix is not None)


def test_links_are_followed_on_both_sides(tmp_path: Path) -> None:
    photos, secret = tmp_path / "photos", tmp_path / "secret"
    (photos / "shoes").mkdir(parents=True)
    secret.mkdir()
    (photos / "link").symlink_to(secret)
    (tmp_path / "alias").symlink_to(photos)
    assert not contains(str(photos), str(photos / "link"))
    assert contains(str(photos), str(tmp_path / "alias" / "shoes"))
    assert contains(str(tmp_path / "alias"), str(photos / "shoes"))


def test_relative_folders_are_those_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert contains(str(tmp_path), "photos")
    assert not contains("photos", str(tmp_path))
