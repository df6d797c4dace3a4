"""Output of a command: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bgpipe.pipeline.logging import Notify


@dataclass(frozen=True, slots=True)
class Console:
    """`json`: one object a line on stdout and no prose. `quiet`: warnings and errors only."""

    json: bool = False
    quiet: bool = False

    def show(self, record: Mapping[str, Any], *lines: str) -> None:
        """Print the record with --json, else the lines."""
        self.print_json(record)
        for line in lines:
            self.print(line)

    def print_json(self, record: Mapping[str, Any]) -> None:
        """Print one JSON object; nothing without --json."""
        if self.json:
            _write(sys.stdout, json.dumps(record))

    def print(self, text: str) -> None:
        """Print a line of prose; nothing with --json or --quiet."""
        if self.is_verbose:
            _write(sys.stdout, text)

    def warn(self, text: str) -> None:
        """Print a line on stderr, always."""
        _write(sys.stderr, text)

    @property
    def notify(self) -> Notify | None:
        """Shows a line about a wait on stderr; None with --quiet."""
        return None if self.quiet else self.warn

    @property
    def is_verbose(self) -> bool:
        """Whether prose is printed."""
        return not (self.json or self.quiet)

    def print_table(
        self, names: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()
    ) -> None:
        """Print columns; those in `right` are aligned to the right.

        Bold names and folded cells on a terminal, plain columns of any width elsewhere.
        """
        if not self.is_verbose:
            return
        if not sys.stdout.isatty():
            lines = [[name.replace("\n", " ") for name in names], *rows]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            sides = [">" if name in right else "<" for name in names]
            for line in lines:
                cells = map("{:{}{}}".format, line, sides, widths)
                self.print("  ".join(cells).rstrip())
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in names:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        self.render(table)

    def render(self, renderable: RenderableType) -> None:
        """Print a Rich object; color only on a terminal and without NO_COLOR."""
        from rich.console import Console as RichConsole

        if self.is_verbose:
            RichConsole(soft_wrap=not sys.stdout.isatty()).print(renderable)


def short_location(location: str) -> str:
    """Return a store's location with `~` for the home folder."""
    home = str(Path.home())
    below = location == home or location.startswith(f"{home}/")
    return f"~{location.removeprefix(home)}" if below and home != "/" else location


def counted(count: int, noun: str) -> str:
    """Return `1 image` or `1,204 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _write(stream: TextIO, text: str) -> None:
    """Write a line; characters outside the stream's encoding, as in file names, are escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
