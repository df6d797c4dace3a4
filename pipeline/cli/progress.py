"""A job's progress on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Books

LINE_SECONDS = 10.0

Watcher = Callable[["Books"], None]


@contextmanager
def progress(terminal: Terminal) -> Iterator[Watcher]:
    """A function to be given the books whenever they have been read."""
    if terminal.live:
        with _bar() as watch:
            yield watch
    else:
        yield _lines(terminal)


def rate(books: Books) -> str:
    """Images a second, or seconds an image when there are fewer."""
    if books.images_per_second == 0:
        return "-"
    if books.images_per_second < 1:
        return f"{1 / books.images_per_second:.1f} s/image"
    return f"{books.images_per_second:.1f} images/s"


@contextmanager
def _bar() -> Iterator[Watcher]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.fields[state]}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}", style="red"),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,
    ) as bar:
        task = bar.add_task("", total=None, state="starting", rate="", failed="")

        def watch(books: Books) -> None:
            bar.update(
                task,
                total=books.total - books.skipped,
                completed=books.done + books.failed,
                state="loading" if not books.done + books.failed else books.state,
                rate=rate(books),
                failed=f"{books.failed} failed" if books.failed else "",
            )

        yield watch


def _lines(terminal: Terminal) -> Watcher:
    last = time.monotonic()

    def watch(books: Books) -> None:
        nonlocal last
        if terminal.quiet or time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        terminal.warn(
            f"{books.state}: {books.done + books.failed} of {books.total - books.skipped}, "
            f"{rate(books)}, {books.failed} failed"
        )

    return watch
