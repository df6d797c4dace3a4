"""Print a selection of pyproject.toml's requirements: `requirements.py [--only NAME ...] [--without NAME ...]`.

Images install them before the code, so that a change of the code keeps that layer; the control image omits
those that only workers import.
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
    parser.add_argument("--only", nargs="+", default=[], help="only these distributions")
    parser.add_argument("--without", nargs="+", default=[], help="not these distributions")
    parser.add_argument("--project", type=Path, default=PROJECT)
    options = parser.parse_args()
    project = tomllib.loads(options.project.read_text())["project"]
    lines = list(project["dependencies"])
    for extra in options.extra:
        lines += project["optional-dependencies"][extra]
    for line in select(lines, options.only, options.without):
        sys.stdout.write(f"{line}\n")


def select(lines: list[str], only: Collection[str], without: Collection[str]) -> Iterator[str]:
    """Yield the selected requirements.

    Raises:
        SystemExit: a name is not a requirement of the project.
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
