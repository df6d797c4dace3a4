"""Words and reading ease of the documents, one line a page.

    infra/scripts/prose [--check]

Words are those with a letter, without code blocks; reading ease is Flesch's (1948, 0..100, higher is easier) of the
paragraphs and lists, as textstat counts it. Decisions are listed, but belong to no limit.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import textstat

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "infra/docs"
MOST_WORDS = {"README.md": 700, "infra/docs": 13_000}
LEAST_EASE = 50.0  # of README and tutorials
BLOCK = re.compile(r"<!--.*?-->|^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
BULLET = re.compile(r"^\s*(?:[-*]|\d+\.)\s+", re.MULTILINE)
NO_PROSE = ("|", "#", "    ", "![")  # tables, headings, indented code, images


def words(text: str) -> int:
    return sum(bool(re.search(r"[^\W\d_]", word)) for word in BLOCK.sub("", text).split())


def reading_ease(text: str) -> float:
    return float(textstat.flesch_reading_ease("\n".join(_paragraphs(BLOCK.sub("", text)))))


def _paragraphs(text: str) -> list[str]:
    """Return paragraphs and items of lists as plain sentences, a name in code counted as one short word."""
    blocks = [block for block in re.split(r"\n\s*\n", text) if block.strip()]
    prose = [block.strip() for block in blocks if not block.startswith(NO_PROSE)]
    items = [item for block in prose for item in BULLET.split(block) if item.strip()]
    plain = [re.sub(r"`[^`]*`", "it", LINK.sub(r"\1", item)) for item in items]
    joined = [re.sub(r"[*_]", "", " ".join(item.split())) for item in plain]
    return [item if item.endswith((".", ":")) else f"{item}." for item in joined]


def main() -> int:
    """Print the table. Returns 1 with --check if a limit is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail if a limit is exceeded")
    check = parser.parse_args().check
    total, problems = 0, []
    print(f"{'page':<72}{'words':>7}{'ease':>7}")
    for page in [README, *sorted(DOCS.rglob("*.md"))]:
        name, text = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8")
        count, ease = words(text), reading_ease(text)
        print(f"{name:<72}{count:>7,}{ease:>7.0f}")
        if "decisions" not in page.parts and page != README:
            total += count
        if ease < LEAST_EASE and (page == README or "tutorials" in page.parts):
            problems.append(
                f"hard to read: {name}: reading ease {ease:.0f}, at least {LEAST_EASE:.0f}"
            )
    print(f"{'infra/docs without decisions':<72}{total:>7,}")
    counts = {"README.md": len(README.read_text(encoding="utf-8").split()), "infra/docs": total}
    problems += [
        f"too long: {name}: {counts[name]:,} words, at most {most:,}"
        for name, most in MOST_WORDS.items()
        if counts[name] > most
    ]
    for problem in problems if check else ():
        print(problem, file=sys.stderr)
    return 1 if check and problems else 0


if __name__ == "__main__":
    sys.exit(main())
