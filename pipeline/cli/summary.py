"""How a job's books are told to people and to scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.progress import failures, rate
from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.pipeline.ledger import Ledger
    from bgpipe.pipeline.types import Books, Failure, JobId

SHOWN = 10
"""Failures that a person sees before being sent to `bgpipe errors`."""
INTERRUPTED = 130
SKIPPED = "up to\ndate"
JOB_COLUMNS = ("job", "date", "state", "images", "done", SKIPPED, "failed", "source", "target")
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
    for failure in islice(dead_letters, SHOWN):
        terminal.say(f"  {failure.code}  {failure.source}: {failure.detail}")
    if books.failed > SHOWN:
        terminal.say(f"  ... all {books.failed}: bgpipe errors {books.job}")
    terminal.say(f"sources are untouched; when they are mended: bgpipe retry {books.job}")


def show_flags(terminal: Terminal, ledger: Ledger, job: JobId) -> None:
    """A line for each flagged cutout."""
    flags = ledger.flags(job)
    for item in ledger.pick(job, flags):
        names = [str(flag) for flag in flags[item.index]]
        terminal.emit({"source": item.source, "target": item.target, "flags": names})
        terminal.say(f"  {', '.join(names)}  {item.target}")


def show_jobs(terminal: Terminal, jobs: Sequence[tuple[Books, float]]) -> None:
    """A table of the jobs, each with its Unix time of creation; paths are shortened to fit a terminal."""
    for books, _ in jobs:
        terminal.emit(asdict(books))
    rows = [_row(books, created) for books, created in jobs]
    if sys.stdout.isatty():
        rows = _fitted(rows, get_terminal_size().columns)
    terminal.table(JOB_COLUMNS, rows, right=COUNTS)


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
    return f"{books.job} {books.state}: {books.total} images, {', '.join(parts)}{pace}"


def exit_code(books: Books) -> int:
    """Of a command that has seen the job through."""
    if books.state == "cancelled":
        return INTERRUPTED
    return 1 if books.state == "finished" and books.failed else 0


def _row(books: Books, created: float) -> list[str]:
    state = "interrupted" if books.interrupted else str(books.state)
    counts = (books.total, books.done, books.skipped, books.failed)
    paths = (_below_home(books.source), _below_home(books.out))
    return [books.job, _date(created), state, *map(str, counts), *paths]


def _date(created: float) -> str:
    """Local, and short: with the time of day if it is of this year, else with the year."""
    moment, now = time.localtime(created), time.localtime()
    return time.strftime("%d %b %H:%M" if moment.tm_year == now.tm_year else "%d %b %Y", moment)


def _below_home(path: str) -> str:
    home = f"{Path.home()}/"
    return f"~/{path.removeprefix(home)}" if path.startswith(home) else path


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
