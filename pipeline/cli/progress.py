"""A job's progress on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Books

LINE_SECONDS = 10.0
WINDOW = 60.0
"""Seconds over which the pace is measured: a job may have been interrupted for days."""

Watcher = Callable[["Books"], None]


class Pace:
    """How fast a job goes now, by the books seen lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, books: Books) -> float:
        """Images a second, 0 while none have ended; a worker's start does not count."""
        now, ended = time.monotonic(), books.done + books.failed
        if not ended:
            self._seen.clear()
        self._seen.append((now, ended))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        start, before = self._seen[0]
        return (ended - before) / (now - start) if now > start else 0.0


@contextmanager
def progress(terminal: Terminal) -> Iterator[Watcher]:
    """A function to be given the books whenever they have been read."""
    if terminal.live:
        with _bar() as watch:
            yield watch
    else:
        yield _lines(terminal)


def rate(images_per_second: float) -> str:
    """Images a second, or seconds an image when there are fewer."""
    if images_per_second == 0:
        return "-"
    if images_per_second < 1:
        return f"{1 / images_per_second:.1f} s/image"
    return f"{images_per_second:.1f} images/s"


def failures(books: Books) -> str:
    """How many failed, and why: `3 failed (E_EMPTY 2, E_MISSING 1)`; empty if none did."""
    if not books.failed:
        return ""
    codes = ", ".join(f"{code} {count}" for code, count in books.errors.items())
    return f"{books.failed} failed ({codes})"


def duration(seconds: float) -> str:
    """The two largest units: `2 h 5 min`, `40 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def _bar() -> Iterator[Watcher]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    pace = Pace()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[pace]}"),
        TextColumn("{task.fields[skipped]}"),
        TextColumn("{task.fields[failed]}", style="red"),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
    ) as bar:
        task = bar.add_task("starting", total=0, pace="", skipped="", failed="")

        def watch(books: Books) -> None:
            bar.update(
                task,
                description=_activity(books),
                total=books.total - books.skipped,
                completed=books.done + books.failed,
                pace=_pace(books, pace.see(books)),
                skipped=f"{books.skipped} up to date" if books.skipped else "",
                failed=failures(books),
            )

        yield watch


def _lines(terminal: Terminal) -> Watcher:
    last = time.monotonic()
    pace = Pace()

    def watch(books: Books) -> None:
        nonlocal last
        now = pace.see(books)
        if terminal.quiet or time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        counts = f"{books.done + books.failed} of {books.total - books.skipped}"
        parts = [counts, _pace(books, now), failures(books)]
        terminal.warn(f"{_activity(books)}: {', '.join(filter(None, parts))}")

    return watch


def _activity(books: Books) -> str:
    waits = books.state == "running" and not books.done + books.failed
    return "waiting for a worker" if waits else str(books.state)


def _pace(books: Books, images_per_second: float) -> str:
    if images_per_second == 0:
        return ""
    left = duration((books.queued + books.running) / images_per_second)
    return f"{rate(images_per_second)}, {left} left"
