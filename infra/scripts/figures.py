"""Copy measured tables into the pages that show them.

A benchmark's output is committed as tests/bench/results/NAME.md:

    python tests/bench/NAME.py > tests/bench/results/NAME.md

Pages mark the place of its Nth table (1 may be left out): `<!-- results: NAME N -->` above, `<!-- end -->` below. In
README.md a row whose command is `python tests/bench/NAME.py` may only have numbers of that output.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests/bench/results"
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "infra/docs").glob("*.md")))
PLACE = re.compile(r"(<!-- results: (\S+)(?: (\d+))? -->\n).*?(<!-- end -->)", re.DOTALL)
ROW = re.compile(
    r"^\|[^|]*\|(?P<measured>[^|]*)\| `python tests/bench/(?P<name>\w+)\.py", re.MULTILINE
)
NUMBER = re.compile(r"\d[\d,.]*\d|\d")


def main() -> int:
    """Write the pages, or check them. Returns 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args()
    problems = list(find_outdated_numbers(README.read_text()))
    for page in PAGES:
        text = page.read_text()
        if (new := fill(text)) != text:
            if given.check:
                problems.append(f"table out of date: {page.name}: run infra/scripts/figures.py")
            else:
                page.write_text(new)
    print("\n".join(problems), end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


def fill(page: str, results: Path = RESULTS) -> str:
    """Return the page with each marked table replaced by the one in `results`.

    Raises FileNotFoundError or IndexError if there is no such table.
    """

    def replace(place: re.Match[str]) -> str:
        path = results / f"{place[2]}.md"
        table = read_tables(path.read_text())[int(place[3] or 1) - 1]
        return f"{place[1]}{table}{place[4]}"

    return PLACE.sub(replace, page)


def read_tables(text: str) -> list[str]:
    lines = groupby(text.splitlines(keepends=True), lambda line: line.startswith("|"))
    return ["".join(table) for is_table, table in lines if is_table]


def find_outdated_numbers(readme: str, results: Path = RESULTS) -> Iterator[str]:
    """Yield what to mend in the rows of the README whose benchmark has a committed output."""
    for row in ROW.finditer(readme):
        path = results / f"{row['name']}.md"
        if path.exists():
            known = set(NUMBER.findall(path.read_text()))
            for number in NUMBER.findall(row["measured"]):
                if number not in known:
                    yield f"README.md: number not in {path.name}: {number}: run the benchmark again"


if __name__ == "__main__":
    sys.exit(main())
