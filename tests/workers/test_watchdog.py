"""Threads that overrun their stage, and what becomes of them."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bgpipe.pipeline.errors import Code, TransientError
from bgpipe.workers.lifecycle import WorkerShuttingDown
from bgpipe.workers.watchdog import StageTimer, Watchdog

LIMITS = {"read": 60.0, "decode": 0.1}


class Image:
    """Its stages: read, which ends, and decode, which waits to be let go."""

    def __init__(self) -> None:
        self.timer = StageTimer(LIMITS)
        self.decoding = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.written = False

    def make(self) -> str:
        try:
            with self.timer("read"):
                pass
            with self.timer("decode"):
                self.decoding.set()
                self.go_on.wait(30)
            with self.timer("read"):
                self.written = True
        finally:
            self.ended.set()
        return "a cutout"


def crowded() -> None:
    raise AssertionError("too many")


def test_what_ends_in_time_is_returned() -> None:
    image = Image()
    image.go_on.set()
    assert Watchdog(1, crowded).run("a.jpg", image.timer, image.make) == "a cutout"
    assert set(image.timer.stages) == {"read", "decode"}


def test_an_error_is_raised_in_the_lane() -> None:
    def fail() -> None:
        raise ArithmeticError("poison")

    with pytest.raises(ArithmeticError, match="poison"):
        Watchdog(1, crowded).run("a.jpg", StageTimer(LIMITS), fail)


def test_a_stuck_stage_frees_the_lane_and_the_late_thread_begins_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image = Image()
    with pytest.raises(TransientError, match=r"decode did not end within 0\.1 s") as caught:
        Watchdog(2, crowded).run("a.jpg", image.timer, image.make)
    assert caught.value.code == Code.TIMEOUT
    (event,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert event.__dict__["fields"]["image"] == "a.jpg"
    assert "make (" in event.__dict__["fields"]["at"]
    image.go_on.set()
    assert image.ended.wait(30)
    assert not image.written


def test_the_worker_leaves_once_too_many_are_stuck_at_the_same_time() -> None:
    calls: list[str] = []
    watchdog = Watchdog(2, lambda: calls.append("leave"))
    images = [Image() for _ in range(3)]
    for image in images[:2]:
        with pytest.raises(TransientError):
            watchdog.run("a.jpg", image.timer, image.make)
        if image is images[0]:
            image.go_on.set()
            assert image.ended.wait(30)
            while any(thread.name == "a.jpg" for thread in threading.enumerate()):
                pass
    assert not calls  # the first one has come back
    with pytest.raises(TransientError):
        watchdog.run("b.jpg", images[2].timer, images[2].make)
    assert calls == ["leave"]
    for image in images:
        image.go_on.set()


def test_lanes_do_not_wait_once_the_worker_gives_up() -> None:
    image, watchdog = Image(), Watchdog(1, crowded)
    image.timer = StageTimer({"read": 60.0, "decode": 60.0})
    with ThreadPoolExecutor(1) as lane:
        end = lane.submit(watchdog.run, "a.jpg", image.timer, image.make)
        assert image.decoding.wait(30)
        watchdog.give_up()
        assert isinstance(end.exception(30), WorkerShuttingDown)
    image.go_on.set()
    assert image.ended.wait(30)
    assert not image.written
