from __future__ import annotations

from bgpipe.pipeline.planning.planner import IgnoredObjects, IgnoredReason


def counted(*keys: str) -> IgnoredObjects:
    ignored = IgnoredObjects()
    for key in keys:
        ignored.add_unread(key)
    return ignored


def test_suffixes_are_counted_as_they_are_written_the_most_frequent_first() -> None:
    ignored = counted("a.psd", "b/c.MOV", "d.MOV", "b.d/README", "e.ai")
    ignored.add(IgnoredReason.EXCLUDED, "x.jpg")
    assert str(ignored) == (
        "6 ignored: 2 .MOV, 1 .ai, 1 .psd, 1 without suffix are not read; 1 excluded"
    )
    assert ignored.record() == {
        "ignored": {"not read": 5, "excluded": 1},
        "ignored_suffixes": {".psd": 1, ".MOV": 2, "without suffix": 1, ".ai": 1},
    }
    assert str(IgnoredObjects()) == ""


def test_camera_raw_comes_with_the_extra_that_reads_it() -> None:
    assert str(counted("a.CR2")) == (
        "1 ignored: 1 .CR2 is not read; for camera RAW: pip install 'bgpipe[raw]'"
    )


def test_counts_add_up() -> None:
    ignored = counted("a.psd")
    ignored.include(counted("b.psd", "c.ai"))
    assert (ignored.reasons.total(), ignored.suffixes[".psd"]) == (3, 2)
