"""A job's summary as text and as JSON."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from shutil import get_terminal_size

from bgpipe.pipeline.cli.console import Console, counted, short_location
from bgpipe.pipeline.cli.progress import format_failures, format_rate
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.types import Failure, JobId, JobSummary

SHOWN = 10
"""Failures that are printed; `bgpipe errors` lists all."""
COUNTS = ("images", "done", "up to\ndate", "failed")
JOB_COLUMNS = ("job", "date", "state", *COUNTS, "source", "target")
NARROW = 90
"""Columns of a terminal below which dates and paths do not fit."""
GAP = 2
"""Spaces between two columns."""
SHORTEST_PATH = 10


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
    parts = [f"{summary.done} done"]
    if summary.skipped:
        parts.append(f"{summary.skipped} up to date")
    if summary.failed:
        parts.append(format_failures(summary))
    if summary.flagged:
        counts = ", ".join(f"{flag} {count}" for flag, count in summary.flags.items())
        parts.append(f"{summary.flagged} flagged ({counts})")
    if summary.queued or summary.running:
        parts.append(f"{summary.queued} queued, {summary.running} running")
    rate = format_rate(summary.images_per_second)
    pace = f" in {summary.seconds:.1f} s ({rate})" if summary.done else ""
    images = counted(summary.total, "image")
    return f"{summary.job} {summary.state}: {images}, {', '.join(parts)}{pace}"


def format_outputs(summary: JobSummary) -> Iterator[str]:
    """Yield a line for each named output."""
    labels = {"done": "done", "skipped": "up to date", "failed": "failed"}
    for name, counts in summary.outputs.items():
        parts = [f"{counts[key]:,} {label}" for key, label in labels.items() if counts[key]]
        yield f"  {name}: {', '.join(parts) or 'none yet'}"


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
