"""What only a folder can do to a store."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpipe.pipeline.errors import (
    Code,
    ItemError,
    PermanentError,
    StorageUnavailable,
    TransientError,
)
from bgpipe.pipeline.storage.local import LocalStore

OTHER_USER = 65534


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder_of_another_user():
    """A folder whose owner this process is, without the powers of root."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, OTHER_USER, OTHER_USER)
        os.seteuid(OTHER_USER)
    yield folder
    if os.getuid() == 0:
        os.seteuid(0)
    for path in folder.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


def keys(store):
    return [entry.key for entry in store.list()]


def error_of(call, *arguments):
    with pytest.raises(ItemError) as caught:
        call(*arguments)
    return caught.value


def test_nothing_is_made_before_the_first_write(store):
    assert store.head("a.png") is None
    assert not store.root.exists()
    store.write("sub/a.png", b"x")
    assert (store.root / "sub" / "a.png").read_bytes() == b"x"


def test_a_name_may_have_two_lines(store):
    store.write("new\nline.png", b"content")
    assert keys(store) == ["new\nline.png"]
    assert store.read("new\nline.png", 9) == b"content"


def test_a_folder_that_is_not_there_is_unavailable(store):
    with pytest.raises(StorageUnavailable, match="store"):
        keys(store)


def test_a_folder_that_cannot_be_read_ends_the_listing_by_name(folder_of_another_user):
    store = LocalStore(folder_of_another_user)
    store.write("a/fine.jpg", b"x")
    store.write("b/locked.jpg", b"x")
    (folder_of_another_user / "b").chmod(0)
    with pytest.raises(StorageUnavailable, match=r"permission denied: .*/b$"):
        keys(store)


def test_what_may_not_be_read_or_written_has_no_access(folder_of_another_user):
    store = LocalStore(folder_of_another_user)
    store.write("a.jpg", b"x")
    (folder_of_another_user / "a.jpg").chmod(0)
    assert error_of(store.read, "a.jpg", 9).code is Code.ACCESS
    folder_of_another_user.chmod(0o500)
    assert error_of(store.write, "b.png", b"x").code is Code.ACCESS
    folder_of_another_user.chmod(0o700)


def test_a_folder_named_like_an_image_is_an_item_that_fails(store):
    (store.root / "x.jpg" / "empty").mkdir(parents=True)
    (entry,) = store.list()
    assert (entry.key, entry.size) == ("x.jpg", 0)
    error = error_of(store.read, "x.jpg", 100)
    assert error.code is Code.NOT_IMAGE
    assert isinstance(error, PermanentError)
    assert "is a directory" in error.detail


def test_a_folder_named_like_an_image_that_holds_some_is_a_folder(store):
    store.write("x.jpg/deep/a.png", b"x")
    assert keys(store) == ["x.jpg/deep/a.png"]


def test_a_pipe_is_refused_at_once(store):
    store.root.mkdir()
    os.mkfifo(store.root / "pipe.jpg")
    assert keys(store) == ["pipe.jpg"]
    assert error_of(store.read, "pipe.jpg", 100).code is Code.NOT_IMAGE


def test_links_to_files_are_followed_and_links_to_folders_are_not(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"there")
    store.write("b.jpg", b"x")
    (store.root / "file.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (store.root / "folder").symlink_to(tmp_path / "elsewhere")
    (store.root / "loop").symlink_to(store.root)
    assert keys(store) == ["b.jpg", "file.jpg"]
    assert store.read("file.jpg", 9) == b"there"


def test_a_link_to_nothing_is_an_item_that_is_missing(store):
    store.root.mkdir()
    (store.root / "gone.jpg").symlink_to("nowhere.jpg")
    assert keys(store) == ["gone.jpg"]
    assert error_of(store.read, "gone.jpg", 9).code is Code.MISSING


def test_nothing_is_written_through_a_link_that_leads_out(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    store.root.mkdir()
    (store.root / "out").symlink_to(tmp_path / "elsewhere")
    assert error_of(store.write, "out/a.png", b"x").code is Code.TARGET
    assert error_of(store.write, "out/new/a.png", b"x").code is Code.TARGET
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_nothing_is_deleted_through_a_link_that_leads_out(store, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"precious")
    store.root.mkdir()
    (store.root / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermanentError) as caught:
        store.delete("out/a.png")
    assert caught.value.code is Code.TARGET
    assert (tmp_path / "elsewhere" / "a.png").exists()


def test_a_target_that_is_a_link_is_replaced_and_not_written_through(store, tmp_path):
    (tmp_path / "precious.png").write_bytes(b"precious")
    store.root.mkdir()
    (store.root / "a.png").symlink_to(tmp_path / "precious.png")
    store.write("a.png", b"new")
    assert (tmp_path / "precious.png").read_bytes() == b"precious"
    assert store.read("a.png", 9) == b"new"


@pytest.mark.parametrize(
    "key", ["file.png/a.png", "file.png/b/a.png", "folder", "x" * 300 + ".png"]
)
def test_a_target_that_cannot_be_a_file_is_refused(store, key):
    store.write("file.png", b"x")
    store.write("folder/a.png", b"x")
    assert error_of(store.write, key, b"new").code is Code.TARGET
    assert keys(store) == ["file.png", "folder/a.png"]


def test_a_failed_write_is_transient_and_leaves_the_old_file_and_no_other(store):
    store.write("a.png", b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        error = error_of(store.write, "a.png", bytes(2 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert isinstance(error, TransientError)
    assert error.code is Code.STORAGE
    assert [path.name for path in store.root.iterdir()] == ["a.png"]
    assert store.read("a.png", 9) == b"old"


def test_readers_see_the_old_file_or_the_new_one(store):
    contents = {bytes([letter]) * 300_000 for letter in b"ab"}
    store.write("a.png", min(contents))
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(store.read("a.png", 10**6))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(20):
        for content in contents:
            store.write("a.png", content)
    done.set()
    reader.join()
    assert seen <= contents


def test_the_umask_decides_who_may_read(store):
    before = os.umask(0o027)
    try:
        store.write("a.png", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((store.root / "a.png").stat().st_mode) == 0o640


def test_a_name_that_is_no_utf8_has_a_key_that_is(store):
    store.root.mkdir()
    name = b"caf\xe9.jpg"
    (store.root / os.fsdecode(name)).write_bytes(b"content")
    (store.root / r"caf\xe9.jpg").write_bytes(b"another")
    listed = keys(store)
    assert listed == [r"caf\x5cxe9.jpg", r"caf\xe9.jpg"]
    assert [store.read(key, 9) for key in listed] == [b"another", b"content"]


@given(st.binary(min_size=1, max_size=20).filter(lambda raw: not {0, 47} & set(raw)))
def test_every_name_of_a_file_has_a_key_that_opens_it(tmp_path_factory, raw):
    raw = b"n" + raw + b".jpg"
    store = LocalStore(tmp_path_factory.mktemp("names"))
    (store.root / os.fsdecode(raw)).write_bytes(raw)
    (key,) = keys(store)
    key.encode()
    if ".." not in raw.decode("latin-1"):
        assert store.read(key, 100) == raw
