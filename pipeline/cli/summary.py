"""How a job's books are told to people and to scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.progress import duration, failures, rate
from bgpipe.pipeline.cli.terminal import Terminal, counted, short_location

if TYPE_CHECKING:
    from bgpipe.pipeline.ignored import IgnoredObjects
    from bgpipe.pipeline.ledger import Ledger
    from bgpipe.pipeline.types import Books, Failure, Job, JobId

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


def show_books(terminal: Terminal, books: Books, dead_letters: Iterable[Failure]) -> None:
    """The summary object, or its sentences with the first failures by name."""
    terminal.emit(asdict(books))
    terminal.say(sentence(books))
    if not books.failed:
        return
    _show_failures(terminal, dead_letters)
    if books.failed > SHOWN:
        terminal.say(f"  all {books.failed:,}: bgpipe errors {books.job}")
    terminal.say(f"after a fix: bgpipe retry {books.job}")


def show_result(terminal: Terminal, ledger: Ledger, books: Books, ignored: IgnoredObjects) -> None:
    """The end of a command that saw its job through: where the cutouts are, and what is not there."""
    terminal.emit(asdict(books) | ignored.record())
    job = "" if ledger.latest() == books.job else f" {books.job}"
    for line in _result(books, _place(ledger.job(books.job)), job):
        terminal.say(line)
    if books.failed:
        _show_failures(terminal, ledger.failures(books.job))
        terminal.say(f"after a fix: bgpipe retry{job}")
    if text := str(ignored):
        terminal.say(text)


def _place(job: Job) -> str:
    """` in FOLDER`, or `: FILE` for the only cutout."""
    from bgpipe.pipeline.naming import literal_key

    key = literal_key(job.naming)
    folder = short_location(job.out)
    return f": {folder.rstrip('/')}/{key}" if key else f" in {folder}"


def _result(books: Books, place: str, job: str) -> Iterator[str]:
    """The lines on a job that has ended; `job` names it behind a command unless it is the latest."""
    if books.state == "cancelled":
        yield f"cancelled: bgpipe resume {books.job} goes on"
    if books.done:
        pace = f"{duration(books.seconds)}, {rate(books.images_per_second)}"
        yield f"{counted(books.done, 'cutout')}{place} ({pace})"
    if books.skipped:
        already = f"{counted(books.skipped, 'cutout')} up to date"
        yield already if books.done else f"{already}{place}"
    if books.flagged:
        yield f"{books.flagged:,} to look at: bgpipe report{job} --open"
    if books.failed:
        yield f"{books.failed:,} failed: bgpipe errors{job}"


def _show_failures(terminal: Terminal, dead_letters: Iterable[Failure]) -> None:
    for failure in islice(dead_letters, SHOWN):
        terminal.say(f"  {failure.code}  {failure.source}: {failure.detail}")


def show_flags(terminal: Terminal, ledger: Ledger, job: JobId) -> None:
    """A line for each flagged cutout."""
    flags = ledger.flags(job)
    for item in ledger.pick(job, flags):
        names = [str(flag) for flag in flags[item.index]]
        terminal.emit({"source": item.source, "target": item.target, "flags": names})
        terminal.say(f"  {', '.join(names)}  {item.target}")


def show_jobs(terminal: Terminal, jobs: Sequence[tuple[Books, float]]) -> None:
    """A table of the jobs, each with its Unix time of creation.

    On a terminal the paths are shortened to fit; a narrow one shows fewer columns.
    """
    for books, _ in jobs:
        terminal.emit(asdict(books))
    rows = [_row(books, created) for books, created in jobs]
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    if width and width < NARROW:
        shown = [JOB_COLUMNS.index(name) for name in NARROW_COLUMNS]
        terminal.table(NARROW_COLUMNS, [[row[n] for n in shown] for row in rows], right=COUNTS)
        return
    terminal.table(JOB_COLUMNS, _fitted(rows, width) if width else rows, right=COUNTS)


def sentence(books: Books) -> str:
    """One line: what was asked for and how it stands."""
    parts = [f"{books.done} done"]
    if books.skipped:
        parts.append(f"{books.skipped} up to date")
    if books.failed:
        parts.append(failures(books))
    if books.flagged:
        counts = ", ".join(f"{flag} {count}" for flag, count in books.flags.items())
        parts.append(f"{books.flagged} flagged ({counts})")
    if books.queued or books.running:
        parts.append(f"{books.queued} queued, {books.running} running")
    pace = f" in {books.seconds:.1f} s ({rate(books.images_per_second)})" if books.done else ""
    images = counted(books.total, "image")
    return f"{books.job} {books.state}: {images}, {', '.join(parts)}{pace}"


def exit_code(books: Books) -> int:
    """Of a command that has seen the job through."""
    if books.state == "cancelled":
        return INTERRUPTED
    return 1 if books.state == "finished" and books.failed else 0


def _row(books: Books, created: float) -> list[str]:
    state = "interrupted" if books.interrupted else str(books.state)
    counts = (books.total, books.done, books.skipped, books.failed)
    paths = (short_location(books.source), short_location(books.out))
    return [books.job, _date(created), state, *map(str, counts), *paths]


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
