"""The help of every command: examples, global options, no raw types, no lost brackets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from bgpipe.pipeline.cli.app import command_tree

if TYPE_CHECKING:
    from .conftest import Bgpipe

GLOBAL = ("--config", "--json", "--quiet", "-q", "--version", "-V", "--help", "-h")


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))


COMMANDS = list(paths(command_tree()))
LEAVES = [
    path for path in COMMANDS if path and path not in {other[:1] for other in COMMANDS if other[1:]}
]


SHOW_ALL = """
import contextlib, io, json, sys
from bgpipe.pipeline.cli import main
for path in json.loads(sys.argv[1]):
    sys.argv = ["bgpipe", *path, "-h"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main()
    print(json.dumps(text.getvalue()))
"""


@cache
def help_texts(width: int) -> dict[tuple[str, ...], str]:
    """The help of every command, from one process."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_ALL, json.dumps(COMMANDS)],
        env=os.environ | {"COLUMNS": str(width)},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))


def shown(path: tuple[str, ...], width: int = 100) -> str:
    return help_texts(width)[path]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_the_global_options_and_no_raw_types(path: tuple[str, ...]) -> None:
    text = shown(path)
    panel = text.split("─ Global ─")[1].split("╰")[0]
    assert [name for name in GLOBAL if not re.search(rf"\s{name}\s", panel)] == []
    assert re.findall(r"<(?:bool|str|int|float|path|file|dir|list)\b", text) == []
    assert "\\[" not in text


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_has_examples_that_the_command_line_takes(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGPIPE_CONFIG", "")  # an example sets it; this puts it back
    lines = shown(path).split(" Examples:")[1].splitlines()
    examples = [line.strip() for line in lines if line.strip()]
    assert examples
    assert all(line.startswith("   ") for line in lines if line.strip())
    for example in examples:
        words = example.split(" | ")[0].split()
        words = words[words.index("bgpipe") + 1 :]
        names = [word for word in words if not word.startswith("-") and word != "new.toml"]
        assert tuple(names[: len(path)]) == path, example
        assert list(problems(command_tree(), words)) == []


def problems(command: Any, words: list[str], parent: Any = None) -> Iterator[str]:
    """What the command line says to `words`, but for folders that are not there."""
    try:
        context = command.make_context(command.name or "bgpipe", words, parent=parent)
    except Exception as error:
        if "does not exist" not in str(error):
            yield f"{words}: {error!r}"
        return
    rest = [*getattr(context, "_protected_args", []), *context.args]
    if hasattr(command, "commands") and rest:
        _, chosen, rest = command.resolve_command(context, rest)
        yield from problems(chosen, rest, context)


def test_words_in_brackets_are_shown() -> None:
    assert "[sweeps.NAME]" in shown(("sweep", "run"))


@pytest.mark.parametrize("width", [60, 120])
def test_help_fits_the_terminal(width: int) -> None:
    longest = {path: max(map(len, text.splitlines())) for path, text in help_texts(width).items()}
    assert {path: length for path, length in longest.items() if length > width} == {}


@pytest.mark.parametrize("arguments", [("-q", "jobs"), ("jobs", "-q"), ("jobs", "--quiet")])
def test_global_options_are_taken_before_and_behind_a_command(
    bgpipe: Bgpipe, arguments: tuple[str, ...]
) -> None:
    assert bgpipe("jobs").stdout.startswith("job ")
    done = bgpipe(*arguments)
    assert (done.returncode, done.stdout) == (0, "")


def test_global_options_are_taken_behind_the_command_of_a_group(bgpipe: Bgpipe) -> None:
    assert bgpipe("models", "path", "birefnet-nano", "--json").stdout.startswith("{")
    assert bgpipe("models", "--json", "path", "birefnet-nano").stdout.startswith("{")
    assert bgpipe("models", "path", "-V").stdout == bgpipe("--version").stdout


def test_a_command_without_arguments_shows_its_help(bgpipe: Bgpipe) -> None:
    assert "Commands" in bgpipe().stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("stats",), "status"), (("status", "--flaged"), "--flagged"), (("config", "chek"), "check")],
)
def test_a_misspelt_word_is_refused_with_what_was_probably_meant(
    bgpipe: Bgpipe, arguments: tuple[str, ...], words: str
) -> None:
    done = bgpipe(*arguments)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
