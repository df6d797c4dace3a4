"""A job's summary as text and as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from shutil import get_terminal_size

from bgpipe.pipeline.cli.console import Console, counted, short_location
from bgpipe.pipeline.cli.progress import format_failures, format_rate
from bgpipe.pipeline.jobs.store import JobStore
from bgpipe.pipeline.planning.ignored import IgnoredObjects
from bgpipe.pipeline.planning.targets import literal_key
from bgpipe.pipeline.report.contact_sheet import format_duration
from bgpipe.pipeline.types import Failure, Job, JobId, JobSummary

SHOWN = 10
"""Failures that are printed; `bgpipe errors` lists all."""
INTERRUPTED = 130
SKIPPED = "up to\ndate"
JOB_COLUMNS = ("job", "date", "state", "images", "done", SKIPPED, "failed", "source", "target")
NARROW_COLUMNS = ("job", "state", "images", "done", "failed")
NARROW = 90
"""Columns of a terminal below which paths do not fit."""
COUNTS = ("images", "done", SKIPPED, "failed")
GAP = 2
"""Spaces between two columns."""
SHORTEST_PATH = 10


def show_summary(console: Console, summary: JobSummary, failures: Iterable[Failure]) -> None:
    """Print the summary and the first failures."""
    console.print_json(asdict(summary))
    console.print(format_summary(summary))
    if not summary.failed:
        return
    _show_failures(console, failures)
    if summary.failed > SHOWN:
        console.print(f"  all {summary.failed:,}: bgpipe errors {summary.job}")
    console.print(f"after a fix: bgpipe retry {summary.job}")


def show_result(
    console: Console, jobs: JobStore, summary: JobSummary, ignored: IgnoredObjects
) -> None:
    """Print how a job ended: where the cutouts are, what failed, what was ignored."""
    console.print_json(asdict(summary) | ignored.record())
    argument = "" if jobs.latest() == summary.job else f" {summary.job}"
    for line in _result(summary, _destination(jobs.job(summary.job)), argument):
        console.print(line)
    if summary.failed:
        _show_failures(console, jobs.items.failures(summary.job))
        console.print(f"after a fix: bgpipe retry{argument}")
    if text := str(ignored):
        console.print(text)


def _destination(job: Job) -> str:
    """Return ` in FOLDER`, or `: FILE` for the only cutout."""
    key = literal_key(job.naming)
    folder = short_location(job.out)
    return f": {folder.rstrip('/')}/{key}" if key else f" in {folder}"


def _result(summary: JobSummary, destination: str, argument: str) -> Iterator[str]:
    """Yield the lines on a job that has ended; `argument` names it unless it is the latest."""
    if summary.state == "cancelled":
        yield f"cancelled: continue with bgpipe resume {summary.job}"
    if summary.done:
        pace = f"{format_duration(summary.seconds)}, {format_rate(summary.images_per_second)}"
        yield f"{counted(summary.done, 'cutout')}{destination} ({pace})"
    if summary.skipped:
        already = f"{counted(summary.skipped, 'cutout')} up to date"
        yield already if summary.done else f"{already}{destination}"
    if summary.flagged:
        yield f"{summary.flagged:,} to review: bgpipe report{argument} --open"
    if summary.failed:
        yield f"{summary.failed:,} failed: bgpipe errors{argument}"


def _show_failures(console: Console, failures: Iterable[Failure]) -> None:
    for failure in islice(failures, SHOWN):
        console.print(f"  {failure.code}  {failure.source}: {failure.detail}")


def show_flags(console: Console, jobs: JobStore, job_id: JobId) -> None:
    """Print a line for each flagged cutout."""
    flags = jobs.items.flags(job_id)
    for item in jobs.items.pick(job_id, flags):
        names = [str(flag) for flag in flags[item.index]]
        console.print_json({"source": item.source, "target": item.target, "flags": names})
        console.print(f"  {', '.join(names)}  {item.target}")


def show_jobs(console: Console, summaries: Sequence[tuple[JobSummary, float]]) -> None:
    """Print a table of the jobs, each with its Unix time of creation.

    On a terminal the paths are shortened to fit; a narrow one shows fewer columns.
    """
    for summary, _ in summaries:
        console.print_json(asdict(summary))
    rows = [_row(summary, created) for summary, created in summaries]
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    if width and width < NARROW:
        shown = [JOB_COLUMNS.index(name) for name in NARROW_COLUMNS]
        console.print_table(
            NARROW_COLUMNS, [[row[index] for index in shown] for row in rows], right=COUNTS
        )
        return
    console.print_table(JOB_COLUMNS, _fit(rows, width) if width else rows, right=COUNTS)


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


def exit_code(summary: JobSummary) -> int:
    """Return the exit code of a command that waited for the job."""
    if summary.state == "cancelled":
        return INTERRUPTED
    return 1 if summary.state == "finished" and summary.failed else 0


def _row(summary: JobSummary, created: float) -> list[str]:
    state = "interrupted" if summary.interrupted else str(summary.state)
    counts = (summary.total, summary.done, summary.skipped, summary.failed)
    locations = (short_location(summary.source), short_location(summary.out))
    return [summary.job, _date(created), state, *map(str, counts), *locations]


def _date(created: float) -> str:
    """Return the local date: with the time of day if it is this year's, else with the year."""
    moment, now = time.localtime(created), time.localtime()
    return time.strftime("%d %b %H:%M" if moment.tm_year == now.tm_year else "%d %b %Y", moment)


def _fit(rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Cut the last two cells, the paths, in the middle to the rest of `width`."""
    columns = zip(JOB_COLUMNS[:-2], *(row[:-2] for row in rows), strict=True)
    used = sum(
        max(len(line) for cell in column for line in cell.split("\n")) + GAP for column in columns
    )
    room = max((width - used - GAP) // 2, SHORTEST_PATH)
    return [[*row[:-2], *(_cut(path, room) for path in row[-2:])] for row in rows]


def _cut(path: str, room: int) -> str:
    if len(path) <= room:
        return path
    end = (room - 1) * 2 // 3  # the end of a path distinguishes it better than its start
    return f"{path[: room - 1 - end]}…{path[-end:]}"
