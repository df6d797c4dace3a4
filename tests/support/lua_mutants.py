"""Mutants of a Lua file: each comparison, each branch and each write, one at a time.

A line of our scripts holds at most one statement of a kind, which is all that this needs to know of Lua.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    "==": ("~=",),
    "~=": ("==",),
    "<": ("<=", ">="),
    ">": (">=", "<="),
    "<=": ("<", ">"),
    ">=": (">", "<"),
}
CONNECTIVES = {"and": ("or",), "or": ("and",)}
READS = {
    # What a write that is part of an expression becomes: the same reply, and no change.
    "HDEL": "redis.call('HEXISTS', {0}, {1})",
    "SETBIT": "redis.call('GETBIT', {0}, {1})",
    "HINCRBY": "((redis.call('HGET', {0}, {1}) or 0) + {2})",
    "INCR": "((redis.call('GET', {0}) or 0) + 1)",
}
WRITES = (
    *("HSET", "HSETNX", "HDEL", "HINCRBY", "HINCRBYFLOAT", "SETBIT", "SET", "SETRANGE"),
    *("ZADD", "ZREM", "UNLINK", "EXPIRE", "PEXPIRE", "INCR", "BITOP"),
)
NOTHING = "do end"

_OPERATOR = re.compile(r"==|~=|<=|>=|<|>|\band\b|\bor\b")
_CONDITION = re.compile(r"\b(?:if|elseif) (.+?) then\b")
_NEGATION = re.compile(r"\bnot ")
_CALL = re.compile(r"\bredis\.p?call\('(\w+)'")
_OWN_CALL = re.compile(r"^\s*(?:if .+ then )?((?!redis\.|return|local|function|if|for|end)\w+\()")
_QUOTED = re.compile(r"'[^']*'")


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one line, `number` from 1; `text` is the whole file with it."""

    number: int
    line: str
    mutated: str
    text: str

    @property
    def change(self) -> str:
        return f"{self.line} => {self.mutated}"


def mutants(text: str) -> Iterator[Mutant]:
    """Yield every mutant of the file `text`, in the order of its lines."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if line.lstrip().startswith("--"):
            continue
        for mutated in dict.fromkeys(_mutations(line)):
            changed = [*lines[:index], mutated, *lines[index + 1 :]]
            yield Mutant(index + 1, line.strip(), mutated.strip(), "\n".join(changed))


def _mutations(line: str) -> Iterator[str]:
    code = _QUOTED.sub(lambda quoted: "'" + "." * (len(quoted[0]) - 2) + "'", line)
    for found in _OPERATOR.finditer(code):
        for other in (COMPARISONS | CONNECTIVES)[found[0]]:
            yield line[: found.start()] + other + line[found.end() :]
    for found in _CONDITION.finditer(code):
        for constant in ("true", "false"):
            yield line[: found.start(1)] + constant + line[found.end(1) :]
    for found in _NEGATION.finditer(code):
        yield line[: found.start()] + line[found.end() :]
    for found in _CALL.finditer(line):
        if found[1] in WRITES:
            yield from _without_write(line, found.start(), found[1])
    if found := _OWN_CALL.match(code):
        yield line[: found.start(1)] + NOTHING + line[_end_of_call(line, found.end(1)) :]


def _without_write(line: str, start: int, command: str) -> Iterator[str]:
    """Yield `line` without its write at `start`, and without each of its pairs of field and value."""
    opened = line.index("(", start) + 1
    end = _end_of_call(line, opened)
    before, after = line[:start], line[end:]
    arguments = _arguments(line[opened : end - 1])
    if before.strip() and not before.rstrip().endswith(("then", "do")):
        yield before + READS[command].format(*arguments[1:]) + after
        return
    yield before + NOTHING + after
    if command == "HSET" and len(arguments) > 4:
        for at in range(2, len(arguments), 2):
            kept = ", ".join(arguments[:at] + arguments[at + 2 :])
            yield f"{before}redis.call({kept}){after}"


def _end_of_call(line: str, position: int) -> int:
    """Return the position behind the parenthesis that closes the one before `position`."""
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(line[position], 0)
        position += 1
    return position


def _arguments(text: str) -> list[str]:
    """Split at the commas that are in no parenthesis."""
    arguments, depth = [""], 0
    for character in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            arguments.append("")
        else:
            arguments[-1] += character
    return [argument.strip() for argument in arguments]
