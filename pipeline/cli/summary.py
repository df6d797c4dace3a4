"""How a job's books are told to people and to scripts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.progress import rate
from bgpipe.pipeline.cli.terminal import Terminal

if TYPE_CHECKING:
    from bgpipe.pipeline.types import Books, Failure

SHOWN = 10
"""Failures that a person sees before being sent to `bgpipe errors`."""


def show_books(terminal: Terminal, books: Books, failures: Iterable[Failure]) -> None:
    """The summary object, or its sentences with the first failures by name."""
    terminal.emit(asdict(books))
    terminal.say(sentence(books))
    for failure in islice(failures, SHOWN):
        terminal.say(f"  {failure.code}  {failure.source}: {failure.detail}")
    if books.failed > SHOWN:
        terminal.say(f"  ... all {books.failed}: bgpipe errors {books.job}")
    if books.failed:
        terminal.say("sources are untouched; submit again when they are mended")


def sentence(books: Books) -> str:
    """One line: what was asked for and how it stands."""
    parts = [f"{books.done} done"]
    if books.skipped:
        parts.append(f"{books.skipped} up to date")
    if books.failed:
        parts.append(f"{books.failed} failed")
    if books.queued or books.running:
        parts.append(f"{books.queued} queued, {books.running} running")
    pace = f" in {books.seconds:.1f} s ({rate(books)})" if books.done else ""
    return f"{books.job} {books.state}: {books.total} images, {', '.join(parts)}{pace}"


def exit_code(books: Books) -> int:
    return 1 if books.failed else 0
