"""How a job's books are told to people and to scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.console import Console, counted, short_location
from bgpipe.pipeline.cli.progress import failures, rate

if TYPE_CHECKING:
    from bgpipe.pipeline.jobs.store import JobStore
    from bgpipe.pipeline.planning.ignored import IgnoredObjects
    from bgpipe.pipeline.types import Failure, Job, JobId, JobSummary

SHOWN = 10
"""Failures that a person sees before being sent to `bgpipe errors`."""
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


def show_summary(terminal: Console, summary: JobSummary, dead_letters: Iterable[Failure]) -> None:
    """The summary object, or its sentences with the first failures by name."""
    terminal.print_json(asdict(summary))
    terminal.print(sentence(summary))
    if not summary.failed:
        return
    _show_failures(terminal, dead_letters)
    if summary.failed > SHOWN:
        terminal.print(f"  all {summary.failed:,}: bgpipe errors {summary.job}")
    terminal.print(f"after a fix: bgpipe retry {summary.job}")


def show_result(
    terminal: Console, job_store: JobStore, summary: JobSummary, ignored: IgnoredObjects
) -> None:
    """The end of a command that saw its job through: where the cutouts are, and what is not there."""
    terminal.print_json(asdict(summary) | ignored.record())
    job = "" if job_store.latest() == summary.job else f" {summary.job}"
    for line in _result(summary, _place(job_store.job(summary.job)), job):
        terminal.print(line)
    if summary.failed:
        _show_failures(terminal, job_store.items.failures(summary.job))
        terminal.print(f"after a fix: bgpipe retry{job}")
    if text := str(ignored):
        terminal.print(text)


def _place(job: Job) -> str:
    """` in FOLDER`, or `: FILE` for the only cutout."""
    from bgpipe.pipeline.planning.targets import literal_key

    key = literal_key(job.naming)
    folder = short_location(job.out)
    return f": {folder.rstrip('/')}/{key}" if key else f" in {folder}"


def _result(summary: JobSummary, place: str, job: str) -> Iterator[str]:
    """The lines on a job that has ended; `job` names it behind a command unless it is the latest."""
    if summary.state == "cancelled":
        yield f"cancelled: bgpipe resume {summary.job} goes on"
    if summary.done:
        from bgpipe.pipeline.report.contact_sheet import format_duration

        pace = f"{format_duration(summary.seconds)}, {rate(summary.images_per_second)}"
        yield f"{counted(summary.done, 'cutout')}{place} ({pace})"
    if summary.skipped:
        already = f"{counted(summary.skipped, 'cutout')} up to date"
        yield already if summary.done else f"{already}{place}"
    if summary.flagged:
        yield f"{summary.flagged:,} to look at: bgpipe report{job} --open"
    if summary.failed:
        yield f"{summary.failed:,} failed: bgpipe errors{job}"


def _show_failures(terminal: Console, dead_letters: Iterable[Failure]) -> None:
    for failure in islice(dead_letters, SHOWN):
        terminal.print(f"  {failure.code}  {failure.source}: {failure.detail}")


def show_flags(terminal: Console, job_store: JobStore, job: JobId) -> None:
    """A line for each flagged cutout."""
    flags = job_store.items.flags(job)
    for item in job_store.items.pick(job, flags):
        names = [str(flag) for flag in flags[item.index]]
        terminal.print_json({"source": item.source, "target": item.target, "flags": names})
        terminal.print(f"  {', '.join(names)}  {item.target}")


def show_jobs(terminal: Console, jobs: Sequence[tuple[JobSummary, float]]) -> None:
    """A table of the jobs, each with its Unix time of creation.

    On a terminal the paths are shortened to fit; a narrow one shows fewer columns.
    """
    for summary, _ in jobs:
        terminal.print_json(asdict(summary))
    rows = [_row(summary, created) for summary, created in jobs]
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    if width and width < NARROW:
        shown = [JOB_COLUMNS.index(name) for name in NARROW_COLUMNS]
        terminal.table(NARROW_COLUMNS, [[row[n] for n in shown] for row in rows], right=COUNTS)
        return
    terminal.table(JOB_COLUMNS, _fitted(rows, width) if width else rows, right=COUNTS)


def sentence(summary: JobSummary) -> str:
    """One line: what was asked for and how it stands."""
    parts = [f"{summary.done} done"]
    if summary.skipped:
        parts.append(f"{summary.skipped} up to date")
    if summary.failed:
        parts.append(failures(summary))
    if summary.flagged:
        counts = ", ".join(f"{flag} {count}" for flag, count in summary.flags.items())
        parts.append(f"{summary.flagged} flagged ({counts})")
    if summary.queued or summary.running:
        parts.append(f"{summary.queued} queued, {summary.running} running")
    pace = (
        f" in {summary.seconds:.1f} s ({rate(summary.images_per_second)})" if summary.done else ""
    )
    images = counted(summary.total, "image")
    return f"{summary.job} {summary.state}: {images}, {', '.join(parts)}{pace}"


def exit_code(summary: JobSummary) -> int:
    """Of a command that has seen the job through."""
    if summary.state == "cancelled":
        return INTERRUPTED
    return 1 if summary.state == "finished" and summary.failed else 0


def _row(summary: JobSummary, created: float) -> list[str]:
    state = "interrupted" if summary.interrupted else str(summary.state)
    counts = (summary.total, summary.done, summary.skipped, summary.failed)
    paths = (short_location(summary.source), short_location(summary.out))
    return [summary.job, _date(created), state, *map(str, counts), *paths]


def _date(created: float) -> str:
    """Local, and short: with the time of day if it is of this year, else with the year."""
    moment, now = time.localtime(created), time.localtime()
    return time.strftime("%d %b %H:%M" if moment.tm_year == now.tm_year else "%d %b %Y", moment)


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """`rows` with their last two cells, the paths, cut in the middle to what is left of `width`."""
    columns = zip(JOB_COLUMNS[:-2], *(row[:-2] for row in rows), strict=True)
    used = sum(
        max(len(line) for cell in column for line in cell.split("\n")) + GAP for column in columns
    )
    room = max((width - used - GAP) // 2, SHORTEST_PATH)
    return [[*row[:-2], *(_cut(path, room) for path in row[-2:])] for row in rows]


def _cut(path: str, room: int) -> str:
    if len(path) <= room:
        return path
    end = (room - 1) * 2 // 3  # the end says more than the start
    return f"{path[: room - 1 - end]}…{path[-end:]}"
