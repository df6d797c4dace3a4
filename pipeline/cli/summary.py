"""A job's summary: its progress on stderr, and results as text and JSON."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from shutil import get_terminal_size

from bgpipe.pipeline.cli.console import Console, counted, short_location
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Failure, JobId, JobState, JobSummary

LINE_SECONDS = 10.0
"""Between two lines of progress without a terminal."""
WINDOW = 60.0
"""Seconds over which the rate is measured: a job may have been interrupted for days."""
WIDE = 100
"""Columns from which one line holds everything."""
SHOWN = 10
"""Failures that are printed; `bgpipe errors` lists all."""
COUNTS = ("images", "done", "up to\ndate", "failed")
JOB_COLUMNS = ("job", "date", "state", *COUNTS, "source", "target")
NARROW = 90
"""Columns of a terminal below which dates and paths do not fit."""
GAP = 2
"""Spaces between two columns."""
SHORTEST_PATH = 10

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
    is_live = console.is_verbose and sys.stderr.isatty()
    return _bar(make_title) if is_live else nullcontext(_lines(console))


def format_rate(images_per_second: float) -> str:
    """Return images per second, or seconds per image below one."""
    if 0 < images_per_second < 1:
        return f"{1 / images_per_second:.1f} s/image"
    return f"{images_per_second:.1f} images/s" if images_per_second else "-"


def format_failures(summary: JobSummary) -> str:
    """Return `3 failed (E_EMPTY 2, E_MISSING 1)`; empty if none failed."""
    codes = ", ".join(f"{code} {count:,}" for code, count in summary.errors.items())
    return f"{summary.failed:,} failed ({codes})" if summary.failed else ""


def show_summary(console: Console, summary: JobSummary, failures: Iterable[Failure]) -> None:
    """Print the summary and the first failures."""
    console.show(asdict(summary), format_summary(summary), *format_outputs(summary))
    if summary.paused:
        console.print(f"paused {summary.paused}; continues by itself, or now with bgpipe resume")
    if summary.failed:
        show_failures(console, failures)
        if summary.failed > SHOWN:
            console.print(f"  all {summary.failed:,}: bgpipe errors {summary.job}")
        console.print(f"after a fix: bgpipe retry {summary.job}")


def show_failures(console: Console, failures: Iterable[Failure]) -> None:
    """Print a line for each of the first failures."""
    for failure in islice(failures, SHOWN):
        console.print(f"  {failure.code}  {failure.source}: {failure.detail}")


def show_flags(console: Console, jobs: JobStore, job_id: JobId) -> None:
    """Print a line for each flagged cutout."""
    flags = jobs.items.flags(job_id)
    for item in jobs.items.pick(job_id, flags):
        names = [str(flag) for flag in flags[item.index]]
        console.print_json({"source": item.source, "target": item.target, "flags": names})
        console.print(f"  {', '.join(names)}  {item.target}")


def show_scores(console: Console, jobs: JobStore, job_id: JobId, below: float) -> None:
    """Print a line for each cutout with a score below `below`, the lowest first."""
    scores = enumerate(jobs.items.scores(job_id) if below else ())
    low = {index: score for index, score in scores if score is not None and score < below}
    for item in sorted(jobs.items.pick(job_id, low), key=lambda item: low[item.index]):
        score = low[item.index]
        line = f"  {score:.2f}  {item.target}"
        console.show({"source": item.source, "target": item.target, "score": score}, line)


def show_jobs(console: Console, summaries: Sequence[tuple[JobSummary, float]]) -> None:
    """Print a table of the jobs, each with its Unix time of creation.

    On a terminal the paths are shortened to fit; a narrow one shows fewer columns.
    """
    for summary, _ in summaries:
        console.print_json(asdict(summary))
    columns: Sequence[str] = JOB_COLUMNS
    rows = [_row(summary, created) for summary, created in summaries]
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    if width and width < NARROW:
        columns = ("job", "state", *COUNTS)
        rows = [[row[JOB_COLUMNS.index(name)] for name in columns] for row in rows]
    elif width:
        rows = _fit(rows, width)
    console.print_table(columns, rows, right=COUNTS)


def format_summary(summary: JobSummary) -> str:
    """Return the state and the counts in one line."""
    flags = ", ".join(f"{flag} {count}" for flag, count in summary.flags.items())
    is_open = summary.queued or summary.running
    parts = (
        counted(summary.total, "image"),
        f"{summary.done} done",
        f"{summary.skipped} up to date" if summary.skipped else "",
        format_failures(summary),
        f"{summary.flagged} flagged ({flags})" if summary.flagged else "",
        f"{summary.queued} queued, {summary.running} running" if is_open else "",
    )
    rate = format_rate(summary.images_per_second)
    pace = f" in {summary.seconds:.1f} s ({rate})" if summary.done else ""
    return f"{summary.job} {summary.state}: {', '.join(filter(None, parts))}{pace}"


def format_outputs(summary: JobSummary) -> Iterator[str]:
    """Yield a line for each named output."""
    labels = {"done": "done", "skipped": "up to date", "failed": "failed"}
    for name, counts in summary.outputs.items():
        parts = [f"{counts[key]:,} {label}" for key, label in labels.items() if counts[key]]
        yield f"  {name}: {', '.join(parts) or 'none yet'}"


@contextmanager
def _bar(make_title: Callable[[], str]) -> Iterator[Watcher]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    console, window = Console(stderr=True), ProgressWindow()
    title = ""
    text = TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.description}")
    bar = Progress(BarColumn(bar_width=None), text, console=console, expand=True)
    task = bar.add_task("starting", total=0)
    with Live(bar, console=console, transient=True, refresh_per_second=4) as live:

        def watch(summary: JobSummary) -> None:
            nonlocal title
            if not title or title.endswith("..."):
                title = make_title()
            counts, rate = _counts(summary), window.update(summary)
            remaining = "" if summary.paused else _remaining(summary, rate) or _activity(summary)
            is_wide = console.width >= WIDE
            pause = _activity(summary) if summary.paused else ""
            bar.update(
                task,
                description="   ".join(filter(None, [remaining, counts if is_wide else ""])),
                total=summary.total - summary.skipped,
                completed=summary.done + summary.failed,
            )
            texts = (title.removesuffix(" · ..."), "" if is_wide else counts, pause)
            lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in texts if line]
            live.update(Group(*lines[:1], bar, *lines[1:]))

        yield watch


def _counts(summary: JobSummary) -> str:
    counts = {"up to date": summary.skipped, "failed": summary.failed, "to review": summary.flagged}
    return " · ".join(f"{count:,} {label}" for label, count in counts.items() if count)


def _lines(console: Console) -> Watcher:
    last, window = time.monotonic(), ProgressWindow()

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


def _row(summary: JobSummary, created: float) -> list[str]:
    moment, now = time.localtime(created), time.localtime()
    date = time.strftime("%d %b %H:%M" if moment.tm_year == now.tm_year else "%d %b %Y", moment)
    state = "interrupted" if summary.interrupted else str(summary.state)
    state = "paused" if summary.paused else state
    counts = (summary.total, summary.done, summary.skipped, summary.failed)
    locations = (short_location(summary.source), short_location(summary.out))
    return [summary.job, date, state, *map(str, counts), *locations]


def _fit(rows: Sequence[list[str]], width: int) -> list[list[str]]:
    """Cut the last two cells, the paths, in the middle to the rest of `width`."""
    columns = zip(JOB_COLUMNS[:-2], *(row[:-2] for row in rows), strict=True)
    lines = ([line for cell in column for line in cell.split("\n")] for column in columns)
    room = (width - GAP - sum(max(map(len, column)) + GAP for column in lines)) // 2
    room = max(room, SHORTEST_PATH)
    return [[*row[:-2], *(_cut(path, room) for path in row[-2:])] for row in rows]


def _cut(path: str, room: int) -> str:
    if len(path) <= room:
        return path
    end = (room - 1) * 2 // 3  # the end of a path distinguishes it better than its start
    return f"{path[: room - 1 - end]}…{path[-end:]}"
