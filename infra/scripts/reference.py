"""What infra/scripts/reference runs: every command, option and setting, read from the program itself."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from bgpipe.config.settings import DEFAULTS
from bgpipe.pipeline.cli.app import command_tree
from bgpipe.pipeline.cli.command_line import GLOBAL

PAGE = Path(__file__).resolve().parents[1] / "docs/options.md"
HEAD = """# Commands and settings

<!-- Made by infra/scripts/reference, which reads the program itself: change the program, then run it. -->

What each is good for: [reference](reference.md).
"""
SETTINGS = """
## Settings

Later sources win: these defaults, `bgpipe.toml` in the current folder (or `--config FILE`), the environment, the command line.
In the environment `name` of `[section]` is `BGPIPE_SECTION__NAME`, and a name outside sections `BGPIPE_NAME`.
"""


def main() -> int:
    """Write the page, or check it; 1 if it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    page = "\n".join([HEAD, *_commands(), SETTINGS, *_settings(DEFAULTS.read_text())]) + "\n"
    if not options.check:
        PAGE.write_text(page)
        return 0
    current = PAGE.exists() and PAGE.read_text() == page
    if not current:
        print(f"out of date: {PAGE}: run infra/scripts/reference", file=sys.stderr)
    return 0 if current else 1


def _commands() -> Iterator[str]:
    group: Any = command_tree()
    yield "## Global options\n"
    yield from _options([one for one in group.params if one.rich_help_panel == GLOBAL])
    yield "\n## Commands"
    for name, command in sorted(_leaves(group, "bgpipe")):
        yield f"\n### {name}\n"
        yield f"{_plain(command.help)}\n"
        yield from _options([one for one in command.params if one.rich_help_panel != GLOBAL])


def _leaves(group: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  # click's, or typer's own copy
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _options(parameters: Sequence[Any]) -> Iterator[str]:
    rows = [_row(one) for one in parameters if not getattr(one, "hidden", False)]
    if rows:
        yield "| | default | |\n|---|---|---|"
        yield from rows


def _row(parameter: Any) -> str:  # noqa: ANN401
    if parameter.param_type_name == "argument":
        word = parameter.metavar + ("..." if parameter.nargs != 1 else "")
        name = f"`{word}`" if parameter.required else f"`[{word}]`"
    else:
        names = ", ".join(sorted(parameter.opts, key=len))
        both = "/".join([names, *parameter.secondary_opts])
        name = f"`{_cell(f'{both} {parameter.metavar}'.strip())}`"
    default = "" if parameter.default in (None, False, ()) else f"`{parameter.default}`"
    return f"| {name} | {default} | {_cell(_plain(parameter.help))} |"


def _plain(text: str | None) -> str:
    """Help in one line, without what keeps Rich from reading it as markup."""
    return " ".join((text or "").split()).replace("\\[", "[")


def _settings(text: str) -> Iterator[str]:
    """The tables of defaults.toml; the comment above a value or a section is what it is for."""
    values = tomllib.loads(text)
    place, comment = values, [""]
    rows = ["| | default | |\n|---|---|---|"]
    for line in text.splitlines():
        if line.startswith("# "):
            comment.append(line.removeprefix("# "))
            continue
        if line.startswith("["):
            yield from rows
            section = line.strip("[]")
            place = reduce(lambda table, name: table[name], section.split("."), values)
            yield f"\n### [{section}]\n"
            yield from [f"{_joined(comment)}\n"] if comment else []
            rows = ["| | default | |\n|---|---|---|"] if place else []
        elif " = " in line:
            name = line.split(" = ")[0].strip('"')
            rows.append(f"| `{name}` | `{_shown(place[name])}` | {_cell(_joined(comment))} |")
        if not line or line.startswith("[") or " = " in line:
            comment = []
    yield from rows


def _joined(comment: Sequence[str]) -> str:
    return " ".join(comment).strip()


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"{value:_}" if isinstance(value, int) and value > 9999 else repr(value).replace("'", '"')
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
