"""How a job's books are told to people and to scripts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
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
    images = counted(books.total, "image")
    return f"{books.job} {books.state}: {images}, {', '.join(parts)}{pace}"


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
