"""What is wrong with the settings.

A TOML file with the line of every key, which `tomllib` does not report.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SettingsError(ValueError):
    """Some settings are wrong; the text has a line for each `problem`, the place before a colon."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


KeyPath = tuple[str | int, ...]
"""Names of tables and the key, with the positions in lists: `("worker", "places", 0)`."""

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TomlFile:
    name: str
    values: dict[str, Any]
    lines: dict[KeyPath, int]
    """Where each key is set, counted from 1; a table counts from its header."""

    def line(self, path: KeyPath) -> int:
        """The line of `path`, or of the nearest table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_toml(path: Path) -> TomlFile:
    """Read the file.

    Raises:
        SettingsError: it cannot be read, or is not valid TOML.

    """
    try:
        text = path.read_text(encoding="utf-8")
        return TomlFile(str(path), tomllib.loads(text), _lines(text))
    except OSError as error:
        raise SettingsError([f"{path}: {(error.strerror or str(error)).lower()}"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: not UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([_syntax(path, text, str(error))]) from error


def dotted(path: KeyPath) -> str:
    """The key as TOML writes it: `sweeps.shop.include[0]`."""
    words = (f"[{name}]" if isinstance(name, int) else f".{_quoted(name)}" for name in path)
    return "".join(words).removeprefix(".")


def walk(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Every key of `value` with what it holds, tables before their keys."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from walk(inner, (*path, name))
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from walk(inner, (*path, place))


def _quoted(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _syntax(path: Path, text: str, message: str) -> str:
    position = _POSITION.search(message)
    line = position[1] if position and position[1] else str(len(text.splitlines()) or 1)
    reason = _POSITION.sub("", message)
    return f"{path}:{line}: not valid TOML: {reason[:1].lower()}{reason[1:]}"


def _lines(text: str) -> dict[KeyPath, int]:
    """Parse statement by statement: lines belong to one until it parses, below the last header."""
    lines: dict[KeyPath, int] = {}
    tables: dict[KeyPath, int] = {}  # how often [[a.list]] has been opened
    header, statement, start = "", "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += f"{line}\n"
        if is_header := statement.lstrip().startswith("["):
            header = ""
        try:
            values = tomllib.loads(header + statement)
        except tomllib.TOMLDecodeError:
            continue
        if is_header:
            header = statement
            _count(tables, statement, values)
        for path, _ in walk(values):
            lines.setdefault(_shifted(path, tables), start)
        statement, start = "", number + 1
    return lines


def _count(tables: dict[KeyPath, int], header: str, values: object) -> None:
    if header.lstrip().startswith("[["):
        *_, (last, _) = walk(values)
        tables[last[:-1]] = tables.get(last[:-1], -1) + 1


def _shifted(path: KeyPath, tables: dict[KeyPath, int]) -> KeyPath:
    """`path` within the whole file: a header alone always opens the first table of its list."""
    for place, name in enumerate(path):
        if name == 0 and path[:place] in tables:
            return (*path[:place], tables[path[:place]], *path[place + 1 :])
    return path
