"""The contributors' page and the packages' READMEs name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..support.source_tree import ROOT

PAGE = ROOT / ".github/CONTRIBUTING.md"
TOPS = ("config", "pipeline", "workers")
MAX_LINES = 150
MODULES_WITHOUT_README = 5
READMES = sorted(path for top in TOPS for path in (ROOT / top).rglob("README.md"))
FILE = re.compile(r"`([\w./]+/[\w.]+\.(?:py|toml|md))`")
MODULE = re.compile(r"`(\w+\.(?:py|toml))`")


def packages() -> list[Path]:
    return [file.parent for top in TOPS for file in sorted((ROOT / top).rglob("__init__.py"))]


def modules(package: Path) -> list[Path]:
    return [path for path in package.glob("*.py") if path.name != "__init__.py"]


def test_the_page_is_short_enough_to_be_read() -> None:
    assert len(PAGE.read_text().splitlines()) <= MAX_LINES


def test_the_tree_has_every_package() -> None:
    tree = PAGE.read_text().split("```text\n")[1].split("```")[0]
    listed = re.findall(r"^ *(\w+)/ ", tree, re.MULTILINE)
    names = [package.name for package in packages() if package != ROOT / "pipeline"]
    assert [name for name in names if name not in listed] == []


@pytest.mark.parametrize("page", [PAGE, *READMES], ids=lambda path: path.parent.name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    bases = (ROOT, ROOT / "pipeline", page.parent)
    missing = [
        name
        for name in {*FILE.findall(text), *(MODULE.findall(text) if page != PAGE else ())}
        if not any((base / name).exists() for base in bases)
    ]
    assert missing == []


def test_a_package_of_many_modules_has_a_readme_or_is_part_of_one_that_has() -> None:
    large = [package for package in packages() if len(modules(package)) > MODULES_WITHOUT_README]
    missing = [
        package.relative_to(ROOT).as_posix()
        for package in large
        if not any((folder / "README.md").exists() for folder in {package, package.parent} - {ROOT})
    ]
    assert missing == []
