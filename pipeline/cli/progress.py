"""Progress of a job on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.types import JobState, JobSummary

LINE_SECONDS = 10.0
WINDOW = 60.0
"""Seconds over which the rate is measured: a job may have been interrupted for days."""
WIDE = 100
"""Columns from which one line holds everything."""

Watcher = Callable[[JobSummary], None]


class ProgressWindow:
    """Images per second within the last WINDOW seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, summary: JobSummary) -> float:
        """Return images per second, 0 while none have ended; a worker's start does not count."""
        now, ended = time.monotonic(), summary.done + summary.failed
        if not ended:
            self._samples.clear()
        self._samples.append((now, ended))
        while now - self._samples[0][0] > WINDOW:
            self._samples.popleft()
        start, before = self._samples[0]
        return (ended - before) / (now - start) if now > start else 0.0


def show_progress(
    console: Console, make_title: Callable[[], str] = str
) -> AbstractContextManager[Watcher]:
    """Return a block with a function that shows a summary.

    `make_title` makes the line above the bar; it is called until its result does not end in dots.
    """
    return _bar(make_title) if console.is_live else nullcontext(_lines(console))


def format_rate(images_per_second: float) -> str:
    """Return images per second, or seconds per image below one."""
    if 0 < images_per_second < 1:
        return f"{1 / images_per_second:.1f} s/image"
    return f"{images_per_second:.1f} images/s" if images_per_second else "-"


def format_failures(summary: JobSummary) -> str:
    """Return `3 failed (E_EMPTY 2, E_MISSING 1)`; empty if none failed."""
    codes = ", ".join(f"{code} {count:,}" for code, count in summary.errors.items())
    return f"{summary.failed:,} failed ({codes})" if summary.failed else ""


@contextmanager
def _bar(make_title: Callable[[], str]) -> Iterator[Watcher]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    window = ProgressWindow()
    title = ""
    bar = Progress(
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.description}"),
        console=console,
        expand=True,
    )
    task = bar.add_task("starting", total=0)
    with Live(bar, console=console, transient=True, refresh_per_second=4) as live:

        def watch(summary: JobSummary) -> None:
            nonlocal title
            if not title or title.endswith("..."):
                title = make_title()
            counts = _counts(summary)
            rate = window.update(summary)
            remaining = "" if summary.paused else _remaining(summary, rate) or _activity(summary)
            is_wide = console.width >= WIDE
            pause = _activity(summary) if summary.paused else ""
            bar.update(
                task,
                description="   ".join(filter(None, [remaining, counts if is_wide else ""])),
                total=summary.total - summary.skipped,
                completed=summary.done + summary.failed,
            )
            lines = [
                Text(line, no_wrap=True, overflow="ellipsis")
                for line in (title.removesuffix(" · ..."), "" if is_wide else counts, pause)
                if line
            ]
            live.update(Group(*lines[:1], bar, *lines[1:]))

        yield watch


def _counts(summary: JobSummary) -> str:
    counts = {"up to date": summary.skipped, "failed": summary.failed, "to review": summary.flagged}
    return " · ".join(f"{count:,} {label}" for label, count in counts.items() if count)


def _lines(console: Console) -> Watcher:
    last = time.monotonic()
    window = ProgressWindow()

    def watch(summary: JobSummary) -> None:
        nonlocal last
        rate = window.update(summary)
        if console.quiet or time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        counts = f"{summary.done + summary.failed:,} of {summary.total - summary.skipped:,}"
        remaining = "" if summary.paused else _remaining(summary, rate)
        parts = [counts, remaining, format_failures(summary)]
        console.warn(f"{_activity(summary)}: {', '.join(filter(None, parts))}")

    return watch


def _activity(summary: JobSummary) -> str:
    if summary.paused:
        return f"paused {summary.paused}; continues by itself"
    is_waiting = summary.state is JobState.RUNNING and not summary.done + summary.failed
    return "waiting for a worker" if is_waiting else str(summary.state)


def _remaining(summary: JobSummary, images_per_second: float) -> str:
    if images_per_second == 0:
        return ""
    seconds = round((summary.queued + summary.running) / images_per_second)
    left = str(timedelta(seconds=seconds)).removeprefix("0:").removeprefix("0")
    return f"{format_rate(images_per_second)}   {left} left"
