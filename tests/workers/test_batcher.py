"""The device thread: who shares a batch, who fails with whom, and how it ends."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bgpipe.config.presets import Preset
from bgpipe.config.settings import load_settings
from bgpipe.pipeline.errors import Code, DeviceLost, Refused
from bgpipe.pipeline.inference.engine_cache import EngineCache, ModelSpec
from bgpipe.pipeline.monitoring.heartbeat import WorkerStats
from bgpipe.pipeline.types import Matte, Matting, Recipe
from bgpipe.workers.batcher import Batcher
from bgpipe.workers.heartbeat import WorkerCounters
from bgpipe.workers.lifecycle import WorkerShuttingDown

from ..support.threads import kill_thread

if TYPE_CHECKING:
    from bgpipe.pipeline.inference.engine import Engine, LaunchedPass
    from bgpipe.pipeline.types import Pixels

SIDE = 2
POISON = 13
FATAL = 99


def recipe(weights: str = "a" * 64) -> Recipe:
    return Recipe(model=weights[:4], weights=weights, size=(SIDE, SIDE), preset=Preset())


def image(value: int) -> Pixels:
    return np.full((SIDE, SIDE, 3), value, np.uint8)


@dataclass
class Arithmetic:
    """A device whose matte is the image's value over 255; poison raises, fatal ends the device."""

    open: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)
    memory: int = 1
    passes_in_flight: int = 1
    events: list[str] = field(default_factory=list)
    """`launch` and `read`, with the first value of the batch."""

    def launch(self, images: Sequence[Pixels]) -> LaunchedPass:
        assert self.open.wait(30)
        values = [int(pixels[0, 0, 0]) for pixels in images]
        self.batches.append(values)
        self.events.append(f"launch {values[0]}")
        return partial(self.read, values)

    def read(self, values: Sequence[int]) -> list[Matte]:
        self.events.append(f"read {values[0]}")
        if POISON in values:
            raise ArithmeticError("poison")
        if FATAL in values:
            raise DeviceLost(Code.DEVICE, "gone")
        return [Matte(np.full((SIDE, SIDE), value / 255, np.float32)) for value in values]


@contextmanager
def batcher(
    make: Callable[[ModelSpec], Engine],
    *,
    batch: int = 4,
    wait: float = 0.2,
    step: float = 60,
    counters: WorkerCounters | None = None,
) -> Iterator[tuple[Batcher, threading.Event]]:
    lost = threading.Event()
    limits = load_settings().limits.model_copy(update={"step": step})
    counters = counters or WorkerCounters(WorkerStats())
    engines = EngineCache(make, capacity_bytes=2)
    with Batcher(engines, counters, limits, batch=batch, wait=wait, on_lost=lost.set) as served:
        yield served, lost


def values_of(mattes: list[Matte]) -> list[int]:
    return [round(float(matte.alpha[0, 0]) * 255) for matte in mattes]


def submit_in_order(
    lanes: ThreadPoolExecutor, served: Batcher, items: list[tuple[int, str]]
) -> list[Future[list[Matte]]]:
    """Have lanes ask, one after the other, for images of a value by weights of a letter."""
    answers = []
    for value, weights in items:
        answers.append(lanes.submit(served.infer, recipe(weights * 64), [image(value)]))
        time.sleep(0.02)
    return answers


def test_every_lane_gets_its_own_matte_and_full_batches_go_at_once() -> None:
    engine = Arithmetic()
    with batcher(lambda _: engine, wait=30) as (served, _), ThreadPoolExecutor(12) as lanes:
        answers = [lanes.submit(served.infer, recipe(), [image(v)]) for v in range(12)]
        engine.open.set()
        assert [values_of(answer.result(30)) for answer in answers] == [[v] for v in range(12)]
    assert [len(values) for values in engine.batches] == [4, 4, 4]


def test_a_batch_that_stays_incomplete_goes_after_the_wait() -> None:
    engine = Arithmetic()
    engine.open.set()
    with batcher(lambda _: engine, wait=0.01) as (served, _):
        assert values_of(served.infer(recipe(), [image(7)])) == [7]
    assert engine.batches == [[7]]


def test_a_poisonous_image_fails_alone() -> None:
    engine = Arithmetic()
    with batcher(lambda _: engine, wait=30) as (served, lost), ThreadPoolExecutor(4) as lanes:
        answers = {v: lanes.submit(served.infer, recipe(), [image(v)]) for v in (1, POISON, 3, 4)}
        engine.open.set()
        with pytest.raises(ArithmeticError, match="poison"):
            answers.pop(POISON).result(30)
        assert {v: values_of(answer.result(30)) for v, answer in answers.items()} == {
            v: [v] for v in (1, 3, 4)
        }
        assert not lost.is_set()


def test_models_do_not_share_a_batch_and_jobs_that_take_turns_load_theirs_once() -> None:
    made: list[str] = []
    engine = Arithmetic()
    engine.open.set()

    def make(spec: Recipe) -> Engine:
        made.append(spec.model)
        return engine

    counters = WorkerCounters(WorkerStats())
    with batcher(make, batch=2, wait=0.01, counters=counters) as (served, _):
        for weights in ("a" * 64, "a" * 64, "b" * 64, "a" * 64):
            served.infer(recipe(weights), [image(1)])
            assert counters.snapshot().model == weights
    assert made == ["aaaa", "bbbb"]


def test_edges_have_an_engine_of_their_own_and_tiles_of_one_size_share_batches() -> None:
    made: list[str] = []
    finder, solver = Arithmetic(), Arithmetic()
    finder.open.set()
    solver.open.set()
    matting = Matting("edges", "e" * 64, (SIDE, SIDE), band=0.1)

    def make(spec: ModelSpec) -> Engine:
        made.append(spec.model)
        return solver if isinstance(spec, Matting) else finder

    tall = np.full((2 * SIDE, SIDE, 3), 9, np.uint8)
    counters = WorkerCounters(WorkerStats())
    with batcher(make, batch=2, wait=0.01, counters=counters) as (served, _):
        for value in (1, 2):
            served.infer(recipe(), [image(value)])
            answers = served.infer(matting, [image(3), tall, image(4), image(5)])
            assert values_of(answers) == [3, 9, 4, 5]
        assert counters.snapshot().model == "a" * 64
    assert made == ["aaaa", "edges"]
    assert finder.batches == [[1], [2]]
    stats = counters.snapshot()
    assert (stats.steps, stats.device_images) == (8, 10)
    assert solver.batches == [[3, 4], [9], [5]] * 2


def test_a_model_that_is_missing_refuses_its_images_and_is_tried_again() -> None:
    engine = Arithmetic()
    engine.open.set()
    away = [Refused(Code.INTERNAL, "not here yet")]

    def make(_: Recipe) -> Engine:
        if away:
            raise away.pop()
        return engine

    with batcher(make, batch=1) as (served, lost):
        with pytest.raises(Refused, match="not here yet"):
            served.infer(recipe(), [image(1)])
        assert values_of(served.infer(recipe(), [image(1)])) == [1]
        assert not lost.is_set()


def test_a_load_that_fails_ends_the_worker_and_refuses_the_images_that_wait_for_it() -> None:
    def make(_: Recipe) -> Engine:
        raise RuntimeError("no kernel image is available")

    with batcher(make, batch=2, wait=30) as (served, lost), ThreadPoolExecutor(3) as lanes:
        answers = [lanes.submit(served.infer, recipe(), [image(v)]) for v in range(3)]
        errors = [answer.exception(30) for answer in answers]
        assert Counter(map(type, errors)) == {Refused: 2, WorkerShuttingDown: 1}
        assert lost.wait(30)


def test_when_the_device_is_lost_only_the_images_of_its_last_step_are_suspects() -> None:
    engine = Arithmetic()
    with (
        batcher(lambda _: engine, batch=2, wait=30) as (served, lost),
        ThreadPoolExecutor(6) as lanes,
    ):
        answers = [lanes.submit(served.infer, recipe(), [image(FATAL)]) for _ in range(6)]
        engine.open.set()
        kinds = Counter(type(answer.exception(30)) for answer in answers)
        assert kinds == {DeviceLost: 2, WorkerShuttingDown: 4}
        assert lost.wait(30)
        with pytest.raises(WorkerShuttingDown, match="the device is gone"):
            served.infer(recipe(), [image(1)])
    assert len(engine.batches) == 1


def test_the_next_full_batch_is_launched_before_the_last_is_read() -> None:
    engine = Arithmetic(passes_in_flight=2)
    with batcher(lambda _: engine, batch=2, wait=30) as (served, _), ThreadPoolExecutor(6) as lanes:
        answers = submit_in_order(lanes, served, [(value, "a") for value in range(6)])
        engine.open.set()
        assert [values_of(answer.result(30)) for answer in answers] == [[v] for v in range(6)]
    assert engine.events == ["launch 0", "launch 2", "read 0", "launch 4", "read 2", "read 4"]


def test_a_pass_is_read_at_once_when_no_full_batch_of_its_model_can_follow() -> None:
    engine = Arithmetic(passes_in_flight=2)
    with (
        batcher(lambda _: engine, batch=2, wait=0.05) as (served, _),
        ThreadPoolExecutor(5) as lanes,
    ):
        items = [(0, "a"), (1, "a"), (2, "b"), (3, "b"), (4, "a")]
        answers = submit_in_order(lanes, served, items)
        engine.open.set()
        assert [values_of(answer.result(30)) for answer in answers] == [[v] for v in range(5)]
    assert engine.events == ["launch 0", "read 0", "launch 2", "read 2", "launch 4", "read 4"]


def test_a_poisonous_image_fails_alone_while_another_batch_is_in_flight() -> None:
    engine = Arithmetic(passes_in_flight=2)
    with batcher(lambda _: engine, batch=2, wait=30) as (served, _), ThreadPoolExecutor(4) as lanes:
        items = [(value, "a") for value in (POISON, 1, 2, 3)]
        poisoned, *answers = submit_in_order(lanes, served, items)
        engine.open.set()
        with pytest.raises(ArithmeticError, match="poison"):
            poisoned.result(30)
        assert [values_of(answer.result(30)) for answer in answers] == [[1], [2], [3]]
    assert engine.events[:2] == [f"launch {POISON}", "launch 2"]


def test_every_image_in_flight_is_a_suspect_when_the_device_is_lost() -> None:
    engine = Arithmetic(passes_in_flight=2)
    with (
        batcher(lambda _: engine, batch=2, wait=30) as (served, lost),
        ThreadPoolExecutor(6) as lanes,
    ):
        answers = []
        for value in (FATAL, 1, 2, 3, 4, 5):
            answers.append(lanes.submit(served.infer, recipe(), [image(value)]))
            time.sleep(0.02)
        engine.open.set()
        kinds = [type(answer.exception(30)) for answer in answers]
        assert kinds == [DeviceLost] * 4 + [WorkerShuttingDown] * 2
        assert lost.wait(30)


def test_closing_answers_every_lane() -> None:
    engine = Arithmetic()
    with ThreadPoolExecutor(8) as lanes:
        with batcher(lambda _: engine, batch=1) as (served, lost):
            answers = [lanes.submit(served.infer, recipe(), [image(v)]) for v in range(8)]
            engine.open.set()
            assert values_of(answers[0].result(30)) == [0]
        errors = [answer.exception(30) for answer in answers]
    assert sum(error is None for error in errors) == len(engine.batches)
    assert all(isinstance(error, WorkerShuttingDown) for error in errors if error)
    assert not lost.is_set()


def test_a_step_that_does_not_end_loses_the_device_and_tells_where_it_is() -> None:
    engine = Arithmetic()  # closed: it waits
    with (
        batcher(lambda _: engine, batch=1, step=0.2) as (served, lost),
        ThreadPoolExecutor(3) as lanes,
    ):
        answers = [lanes.submit(served.infer, recipe(), [image(v)]) for v in range(3)]
        errors = [answer.exception(30) for answer in answers]
        assert Counter(map(type, errors)) == {DeviceLost: 1, WorkerShuttingDown: 2}
        (stuck,) = (error for error in errors if isinstance(error, DeviceLost))
        assert stuck.code == Code.TIMEOUT
        assert "step did not end within 0.2 s" in stuck.detail
        assert "test_batcher.py" in stuck.detail
        assert lost.wait(30)
        engine.open.set()  # the step ends late, which is harmless


def test_a_watch_that_is_killed_watches_on() -> None:
    engine = Arithmetic()  # closed: it waits
    with batcher(lambda _: engine, batch=1, step=0.2) as (served, lost):
        kill_thread("device-watch")
        with ThreadPoolExecutor(1) as lane:
            answer = lane.submit(served.infer, recipe(), [image(1)])
            assert isinstance(answer.exception(30), DeviceLost)
            assert lost.is_set()
            engine.open.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_device_thread_that_is_killed_ends_the_worker() -> None:
    engine = Arithmetic()
    engine.open.set()
    with batcher(lambda _: engine) as (served, lost):
        kill_thread("device")
        with suppress(WorkerShuttingDown):  # the first one may still be served
            served.infer(recipe(), [image(1)])
        assert lost.wait(30)
        with pytest.raises(WorkerShuttingDown):
            served.infer(recipe(), [image(1)])
