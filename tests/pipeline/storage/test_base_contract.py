"""What every store does, whatever it is made of."""

from __future__ import annotations

import pytest

from bgpipe.config.settings import load_settings
from bgpipe.pipeline.errors import Code, PermanentError
from bgpipe.pipeline.storage.base import RAW_SUFFIXES, reads_raw
from bgpipe.pipeline.storage.factory import StoreFactory

KEYS = [
    "a.jpg",
    "sub/a.jpg",
    "sub/deeper/b c.PNG",
    "größe/写真 1.webp",
    "percent%20 & 'quote\".jpg",
    "back\\slash.jpg",
    "x.jpg/inside.png",
]


@pytest.fixture(scope="module")
def stores():
    """One factory, so one client: making a client takes longer than a test."""
    return StoreFactory(load_settings().s3)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "store")


@pytest.fixture
def bucket(s3, aws):
    return s3.make_bucket()


@pytest.fixture
def prefix(bucket):
    return f"{bucket}/größe & more/x"


@pytest.fixture(params=["folder", "bucket", "prefix"])
def store(request, stores):
    return stores.open(request.getfixturevalue(request.param))


def code_of(call, *arguments):
    with pytest.raises(PermanentError) as caught:
        call(*arguments)
    return caught.value.code


@pytest.mark.parametrize("key", KEYS)
def test_what_is_written_is_read_and_listed(store, key):
    store.write(key, b"content")
    assert store.read(key, 7) == b"content"
    (entry,) = store.list()
    assert (entry.key, entry.size) == (key, 7)
    assert entry == store.head(key)


def test_the_location_opens_the_same_store_again(store, stores):
    store.write("a.jpg", b"content")
    assert stores.open(store.location).read("a.jpg", 100) == b"content"


def test_what_is_written_has_the_identity_that_is_listed(store):
    identity = store.write("a.png", b"content", {"bgpipe-source": "7-1"})
    assert [entry.identity for entry in store.list()] == [identity]


def test_what_is_deleted_is_gone_and_may_be_deleted_again(store):
    store.write("a.png", b"content")
    store.write("b.png", b"content")
    for _ in range(2):
        store.delete("a.png")
        assert [entry.key for entry in store.list()] == ["b.png"]


def test_what_is_cleared_holds_nothing_hidden_either_and_may_be_cleared_again(store):
    store.write("a.png", b"content")
    store.write("folder/.bgpipe/b.gz", b"content")
    for _ in range(2):
        store.clear()
        assert store.head("a.png") is None
        assert store.head("folder/.bgpipe/b.gz") is None


def test_a_listing_is_in_the_order_of_the_keys_bytes(store):
    keys = ["a.jpg", "a/z.jpg", "a-b.jpg", "a/b/c.jpg", "B.jpg", "é.jpg", "a0.jpg", "a.jpg.png"]
    for key in keys:
        store.write(key, b"x")
    assert [entry.key for entry in store.list()] == sorted(keys, key=str.encode)


def test_only_names_of_images_are_listed(store):
    suffixes = ["jpg", "JPEG", "jpe", "jfif", "mpo", "Png", "webp", "tif", "TIFF", "bmp", "dib"]
    suffixes += ["gif", "avif", "heic", "heif"]
    suffixes += [suffix[1:] for suffix in RAW_SUFFIXES] + ["NEF"] if reads_raw() else []
    for suffix in [*suffixes, "txt", "jpg.txt", "svg", "JPG~"]:
        store.write(f"name.{suffix}", b"x")
    assert {entry.key for entry in store.list()} == {f"name.{suffix}" for suffix in suffixes}


def test_names_without_a_suffix_are_listed_since_their_content_decides(store):
    for key in ("0a1b2c", "d/jpg", "a.jpg", "..x", "Makefile.am"):
        store.write(key, b"x")
    assert {entry.key for entry in store.list()} == {"0a1b2c", "a.jpg", "d/jpg"}


def test_metadata_is_that_of_the_write_or_empty(store):
    store.write("a.png", b"x", {"bgpipe-recipe": "0123"})
    store.write("b.png", b"x")
    assert store.metadata("a.png") == ({"bgpipe-recipe": "0123"} if store.is_remote else {})
    assert store.metadata("b.png") == {}


def test_a_listing_reports_skipped_objects(store):
    for key in ("a.jpg", "notes.txt", "sub/b.PDF", ".hidden.txt", ".hidden/c.txt"):
        store.write(key, b"content")
    passed = []
    assert [entry.key for entry in store.list(on_skipped=passed.append)] == ["a.jpg"]
    assert sorted(passed) == ["notes.txt", "sub/b.PDF"]


def test_hidden_names_are_not_listed(store):
    for key in [".a.jpg", ".jpg", ".hidden/a.jpg", "a/.b/c.jpg", "a/.b.jpg", "a/shown.jpg"]:
        store.write(key, b"x")
    assert [entry.key for entry in store.list()] == ["a/shown.jpg"]


def test_the_identity_changes_with_the_content(store):
    store.write("a.jpg", b"one")
    before = store.head("a.jpg")
    assert store.head("a.jpg") == before
    store.write("a.jpg", b"two, longer")
    assert store.head("a.jpg").identity != before.identity


def test_writing_again_replaces_the_whole(store):
    store.write("a.png", b"a long first content")
    store.write("a.png", b"short")
    assert store.read("a.png", 100) == b"short"


def test_what_is_missing_has_no_head_and_cannot_be_read(store):
    assert store.head("no/such.jpg") is None
    assert code_of(store.read, "no/such.jpg", 10) is Code.MISSING
    assert code_of(store.read_range, "no/such.jpg", 0, 10) is Code.MISSING


def test_no_more_is_read_than_the_limit(store):
    store.write("a.jpg", b"12345")
    assert store.read("a.jpg", 5) == b"12345"
    assert code_of(store.read, "a.jpg", 4) is Code.TOO_LARGE


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 3, b"012"),
        (7, 100, b"789"),
        (-3, 3, b"789"),
        (-100, 2, b"01"),
        (50, 5, b""),
        (0, 0, b""),
    ],
)
def test_a_part_is_read(store, start, length, expected):
    store.write("a.png", b"0123456789")
    assert store.read_range("a.png", start, length) == expected


def test_an_empty_object_is_an_object(store):
    store.write("a.jpg", b"")
    assert store.head("a.jpg").size == 0
    assert store.read("a.jpg", 10) == b""


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/a.png",
        "../a.png",
        "a/../../b.png",
        "a/..",
        "a//b.png",
        "./a.png",
        "a/",
        "nul\0.png",
        "..\\a.png",
        "a\\..\\..\\b.png",
        "half\ud800.png",
    ],
)
def test_a_key_that_could_lead_elsewhere_is_refused(store, key, tmp_path):
    store.write("inside.png", b"x")
    before = [sorted(tmp_path.rglob("*")), list(store.list())]
    for call in (
        lambda: store.write(key, b"x"),
        lambda: store.read(key, 9),
        lambda: store.head(key),
        lambda: store.delete(key),
    ):
        assert code_of(call) is Code.TARGET
    assert [sorted(tmp_path.rglob("*")), list(store.list())] == before
