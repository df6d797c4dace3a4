"""A file that cannot be written is refused before any work is done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Bgpipe

COMMANDS = [
    ("report", "--out"),
    ("report", "-o"),
    ("eval", "--images", ".", "--truth", ".", "--html"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("gone/folder/x.html", "no such folder: gone/folder: create it, or name another file"),
        ("folder", "not a file: folder: name a file in it"),
        ("file/x.html", "no such folder: file: create it, or name another file"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(
    bgpipe: Bgpipe, command: tuple[str, ...], file: str, message: str
) -> None:
    (bgpipe.home / "folder").mkdir()
    (bgpipe.home / "file").touch()
    done = bgpipe(*command, file)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"bgpipe: {message}")
    assert not (bgpipe.home / "state").exists()  # no server was started


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_at_once(bgpipe: Bgpipe) -> None:
    (bgpipe.home / "locked").mkdir(mode=0o500)
    done = bgpipe("report", "--out", "locked/x.html")
    assert (done.returncode, "not writable: locked/x.html" in done.stderr) == (2, True)
