"""The project's requirements, some of them: `requirements.py [--only NAME ...] [--without NAME ...]`.

An image installs them before the code, so that a change of the code leaves that layer alone; and the control
image leaves out what only workers import. The ranges stay in pyproject.toml alone.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extra", nargs="+", default=[], help="extras to add")
    parser.add_argument("--only", nargs="+", default=[], help="these distributions alone")
    parser.add_argument("--without", nargs="+", default=[], help="not these distributions")
    parser.add_argument("--project", type=Path, default=PROJECT)
    options = parser.parse_args()
    project = tomllib.loads(options.project.read_text())["project"]
    lines = list(project["dependencies"])
    for extra in options.extra:
        lines += project["optional-dependencies"][extra]
    for line in chosen(lines, options.only, options.without):
        sys.stdout.write(f"{line}\n")


def chosen(lines: list[str], only: Collection[str], without: Collection[str]) -> Iterator[str]:
    """The requirements asked for.

    Raises:
        SystemExit: a name is none of the project's.
    """
    names = [re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0] for line in lines]
    unknown = sorted({*only, *without} - set(names))
    if unknown:
        sys.exit(f"not a requirement of pyproject.toml: {unknown[0]}")
    for name, line in zip(names, lines, strict=True):
        if (not only or name in only) and name not in without:
            yield line


if __name__ == "__main__":
    main()
