"""The documents' site has every page once; its strict build checks the links (infra/scripts/check)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

from ..support.source_tree import ROOT

DOCS = ROOT / "infra/docs"


def pages(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from pages(value if isinstance(value, list) else [value])


def test_every_page_is_in_the_navigation_once() -> None:
    nav = tomllib.loads((ROOT / "infra/zensical.toml").read_text())["project"]["nav"]
    found = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    decisions = {page for page in found if page.startswith("decisions/")}
    assert sorted(pages(nav)) == sorted(found - decisions)
