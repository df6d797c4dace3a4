"""The structure of the product: its packages, modules and files, and the tests that mirror them."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

from ..support.source_tree import FOLDERS, ROOT, assert_none, modules, tracked

LOOSE = {"__init__", "errors", "logging", "processes", "session", "types"}
"""The only modules of pipeline/ outside a package."""
MAX_FILES = 14
MIN_LINES, MAX_LINES = 40, 350
ENTRY_POINTS = {"__init__", "__main__", "flowerconfig", "random_weights", "run_sweep"}
"""Modules of any length: packages' own, and those that another program starts or imports."""


def test_every_package_on_disk_is_listed_and_every_listed_one_is_on_disk() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    on_disk = {"bgpipe"} | {
        ".".join(["bgpipe", *module.path.parent.relative_to(ROOT).parts])
        for module in modules()
        if module.path.name == "__init__.py"
    }
    assert set(project["tool"]["setuptools"]["packages"]) == on_disk


def test_the_package_holds_its_module_and_a_relative_link_to_each_folder() -> None:
    package = ROOT / "infra/package/bgpipe"
    entries = {entry.name for entry in package.iterdir() if entry.name != "__pycache__"}
    assert entries == {"__init__.py", "py.typed", *FOLDERS}
    for folder in FOLDERS:
        assert str((package / folder).readlink()) == f"../../../{folder}"


def test_the_top_level_holds_only_the_known_entries() -> None:
    top = {path.split("/")[0] for path in tracked()}
    known = {"pyproject.toml", "README.md", "docker-compose.yml", "tests", "infra", *FOLDERS}
    assert {name for name in top if not name.startswith(".")} <= known


def test_no_module_is_loose_in_the_pipeline_but_the_six() -> None:
    assert {path.stem for path in (ROOT / "pipeline").glob("*.py")} == LOOSE


def test_no_package_has_more_files_than_can_be_read_at_a_glance() -> None:
    files = defaultdict[str, int](int)
    for module in modules():
        files[module.path.parent.relative_to(ROOT).as_posix()] += 1
    assert_none(f"{name}: {count} files" for name, count in files.items() if count > MAX_FILES)


def test_modules_are_neither_fragments_nor_heaps() -> None:
    assert_none(
        f"{module.name}: {module.lines} lines"
        for module in modules()
        if module.lines > MAX_LINES
        or (module.lines < MIN_LINES and module.path.stem not in ENTRY_POINTS)
    )


def test_no_two_public_classes_have_one_name() -> None:
    places = defaultdict[str, list[str]](list)
    for module in modules():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module.name)
    assert_none(
        f"{name}: {', '.join(names)}" for name, names in sorted(places.items()) if len(names) > 1
    )


def test_every_test_file_names_the_module_that_it_tests() -> None:
    """tests/PACKAGE/test_MODULE.py, or test_MODULE_ASPECT.py; MODULE may be a package too."""
    tests = (path for folder in FOLDERS for path in (ROOT / "tests" / folder).rglob("test_*.py"))
    assert_none(str(path.relative_to(ROOT)) for path in sorted(tests) if not _names_a_module(path))


def _names_a_module(test: Path) -> bool:
    package = ROOT / test.parent.relative_to(ROOT / "tests")
    parts = test.stem.removeprefix("test_").split("_")
    stems = ("_".join(parts[:end]) for end in range(1, len(parts) + 1))
    return any(
        (package / f"{stem}.py").is_file() or (package / stem / "__init__.py").is_file()
        for stem in stems
    )
