"""A job's progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.console import Console, short_location

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.session import Session
    from bgpipe.pipeline.types import JobId, JobSummary, Preset

LINE_SECONDS = 10.0
WINDOW = 60.0
"""Seconds over which the pace is measured: a job may have been interrupted for days."""
WIDE = 100
"""Columns from which one line holds everything."""

Watcher = Callable[["JobSummary"], None]


class ProgressWindow:
    """Images a second of late, by the books seen."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, summary: JobSummary) -> float:
        """Images a second, 0 while none have ended; a worker's start does not count."""
        now, ended = time.monotonic(), summary.done + summary.failed
        if not ended:
            self._seen.clear()
        self._seen.append((now, ended))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        start, before = self._seen[0]
        return (ended - before) / (now - start) if now > start else 0.0


@contextmanager
def progress(terminal: Console, heading: Callable[[], str] = str) -> Iterator[Watcher]:
    """A function that takes the books whenever they have been read.

    `heading` makes the line above the bar; it is asked until it no longer ends with dots.
    """
    if terminal.live:
        with _bar(heading) as watch:
            yield watch
    else:
        yield _lines(terminal)


def heading(session: Session, job: JobId) -> Callable[[], str]:
    """A function that makes `~/photos → ~/photos-cutouts   balanced · birefnet-lite · gpu0`.

    The devices come from the workers' heartbeats, which take a moment to arrive.
    """
    asked = session.jobs.job(job)
    recipe = asked.recipe
    places = f"{short_location(asked.source)} → {short_location(asked.out)}"
    look = f"{_preset_name(session.settings, recipe.preset)} · {recipe.model}"

    def line() -> str:
        from bgpipe.pipeline.monitoring.heartbeat import read_heartbeats

        labels = sorted({beat.label for beat in read_heartbeats(session.client)})
        return f"{places}   {look} · {', '.join(labels) or '...'}"

    return line


def rate(images_per_second: float) -> str:
    """Images a second, or seconds an image when there are fewer."""
    if images_per_second == 0:
        return "-"
    if images_per_second < 1:
        return f"{1 / images_per_second:.1f} s/image"
    return f"{images_per_second:.1f} images/s"


def failures(summary: JobSummary) -> str:
    """How many failed, and why: `3 failed (E_EMPTY 2, E_MISSING 1)`; empty if none did."""
    if not summary.failed:
        return ""
    codes = ", ".join(f"{code} {count:,}" for code, count in summary.errors.items())
    return f"{summary.failed:,} failed ({codes})"


def _clock(seconds: float) -> str:
    """`0:19`, `1:02:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _preset_name(settings: Settings, preset: Preset) -> str:
    names = (name for name, known in settings.presets.items() if known == preset)
    return next(names, "own values")


@contextmanager
def _bar(heading: Callable[[], str]) -> Iterator[Watcher]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console = Console(stderr=True)
    pace = ProgressWindow()
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
                title = heading()
            trouble = _trouble(summary)
            left = _pace(summary, pace.see(summary)) or _activity(summary)
            wide = console.width >= WIDE
            bar.update(
                task,
                description="   ".join(filter(None, [left, trouble if wide else ""])),
                total=summary.total - summary.skipped,
                completed=summary.done + summary.failed,
            )
            lines: list[RenderableType] = [
                Text(line, no_wrap=True, overflow="ellipsis")
                for line in (title.removesuffix(" · ..."), "" if wide else trouble)
                if line
            ]
            live.update(Group(*lines[:1], bar, *lines[1:]))

        yield watch


def _trouble(summary: JobSummary) -> str:
    counts = (
        (summary.skipped, "up to date"),
        (summary.failed, "failed"),
        (summary.flagged, "to look at"),
    )
    return " · ".join(f"{count:,} {what}" for count, what in counts if count)


def _lines(terminal: Console) -> Watcher:
    last = time.monotonic()
    pace = ProgressWindow()

    def watch(summary: JobSummary) -> None:
        nonlocal last
        now = pace.see(summary)
        if terminal.quiet or time.monotonic() - last < LINE_SECONDS:
            return
        last = time.monotonic()
        counts = f"{summary.done + summary.failed:,} of {summary.total - summary.skipped:,}"
        parts = [counts, _pace(summary, now), failures(summary)]
        terminal.warn(f"{_activity(summary)}: {', '.join(filter(None, parts))}")

    return watch


def _activity(summary: JobSummary) -> str:
    waits = summary.state == "running" and not summary.done + summary.failed
    return "waiting for a worker" if waits else str(summary.state)


def _pace(summary: JobSummary, images_per_second: float) -> str:
    if images_per_second == 0:
        return ""
    left = _clock((summary.queued + summary.running) / images_per_second)
    return f"{rate(images_per_second)}   {left} left"
