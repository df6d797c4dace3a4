"""The source of the product, as the guards of tests/packaging read it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("config", "pipeline", "workers")
_TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True)
class Module:
    path: Path

    @property
    def name(self) -> str:
        """The path below the root of the checkout, with slashes."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def lines(self) -> int:
        return len(self.path.read_text(encoding="utf-8").splitlines())

    def definitions(self) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        return (node for node in ast.walk(self.tree) if isinstance(node, kinds))

    def texts(self) -> Iterator[tuple[int, str]]:
        """The line and text of each comment and string constant, docstrings among them."""
        with tokenize.open(self.path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type in _TEXTS:
                    yield token.start[0], token.string


def modules() -> list[Module]:
    return [Module(path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def words(name: str) -> set[str]:
    """The words of an identifier in either case style."""
    return {word.lower() for word in _WORD.findall(name)}


def assert_none(offenders: Iterable[str]) -> None:
    """Fail with all of them, not with the first."""
    if found := list(offenders):
        pytest.fail("\n".join([f"{len(found)} found:", *found]), pytrace=False)


def copy_checkout(folder: Path) -> Path:
    """Copy what git does not ignore, so that a build leaves nothing behind in the checkout."""
    copy = folder / "tree"
    for name in tracked("--cached", "--others", "--exclude-standard"):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


def tracked(*options: str) -> list[str]:
    """Paths that `git ls-files` lists; skips the test outside a checkout."""
    command = ["git", "ls-files", "-z", *options]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name]
