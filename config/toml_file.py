"""TOML with the line of every key, which `tomllib` does not report, and the error of wrong settings."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class SettingsError(ValueError):
    """The settings are invalid; the text has one line per problem, `origin: reason`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


KeyPath = tuple[str | int, ...]
"""Names of tables and key, and indexes of lists: `("worker", "places", 0)`."""

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TomlFile:
    name: str
    values: dict[str, Any]
    lines: dict[KeyPath, int]
    """Line of each key, from 1; a table's is that of its header."""

    def line(self, path: KeyPath) -> int:
        """Return the line of `path`, or of the innermost known table around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_toml(path: Path) -> TomlFile:
    """Read the file.

    Raises:
        SettingsError: the file is unreadable or not valid TOML.

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
    """Return the key in TOML's notation: `sweeps.shop.include[0]`."""
    parts = (f"[{name}]" if isinstance(name, int) else f".{_quote(name)}" for name in path)
    return "".join(parts).removeprefix(".")


def walk(value: object, path: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Yield every key of `value` with its value, tables before their keys."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from walk(inner, (*path, name))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, index))


def _quote(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _syntax(path: Path, text: str, message: str) -> str:
    position = _POSITION.search(message)
    line = position[1] if position and position[1] else str(len(text.splitlines()) or 1)
    reason = _POSITION.sub("", message)
    return f"{path}:{line}: not valid TOML: {reason[:1].lower()}{reason[1:]}"


def _lines(text: str) -> dict[KeyPath, int]:
    """Map keys to lines by parsing each statement below the last header: it ends where it parses."""
    lines: dict[KeyPath, int] = {}
    tables: dict[KeyPath, int] = {}  # index of the last [[table]] of each list
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
            _count_table(tables, statement, values)
        for path, _ in walk(values):
            lines.setdefault(_shift(path, tables), start)
        statement, start = "", number + 1
    return lines


def _count_table(tables: dict[KeyPath, int], header: str, values: object) -> None:
    if header.lstrip().startswith("[["):
        *_, (last, _) = walk(values)
        tables[last[:-1]] = tables.get(last[:-1], -1) + 1


def _shift(path: KeyPath, tables: dict[KeyPath, int]) -> KeyPath:
    """Return `path` within the whole file; parsed alone, a header opens the first table of its list."""
    for position, name in enumerate(path):
        if name == 0 and path[:position] in tables:
            return (*path[:position], tables[path[:position]], *path[position + 1 :])
    return path
