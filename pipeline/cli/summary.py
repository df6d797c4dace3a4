"""How a job's books are told to people and to scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.progress import failures, rate
from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.pipeline.ledger import Ledger
    from bgpipe.pipeline.types import Books, Failure, JobId

SHOWN = 10
"""Failures that a person sees before being sent to `bgpipe errors`."""
INTERRUPTED = 130


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


def show_jobs(terminal: Terminal, jobs: Sequence[Books]) -> None:
    """A table where somebody looks at it, else a line for each."""
    for books in jobs:
        terminal.emit(asdict(books))
    if sys.stdout.isatty():
        _show_table(terminal, jobs)
    else:
        for books in jobs:
            terminal.say(sentence(books))


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


def _show_table(terminal: Terminal, jobs: Sequence[Books]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("job", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("images", "done", "skipped", "failed", "open"):
        table.add_column(name, justify="right")
    table.add_column("source", overflow="ellipsis", no_wrap=True)
    for books in jobs:
        counts = (
            books.total,
            books.done,
            books.skipped,
            books.failed,
            books.queued + books.running,
        )
        table.add_row(books.job, books.state, *map(str, counts), books.source)
    terminal.console().print(table)
