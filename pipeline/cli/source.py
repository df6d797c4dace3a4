"""What SOURCE on the command line means: a folder, a file, `@list.txt`, or `-`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.storage import Store
from bgpipe.pipeline.types import Entry


@dataclass(frozen=True, slots=True)
class Source:
    """`root` is the folder that keys are relative to; `keys` is None for all of it."""

    root: Path
    keys: tuple[str, ...] | None

    @property
    def default_out(self) -> Path:
        """The sibling `<folder>-cutouts`."""
        return self.root.with_name(f"{self.root.name}-cutouts")

    def entries(self, store: Store) -> Iterator[Entry]:
        if self.keys is None:
            return store.list()
        # What is named and not there is an item that fails, not one that vanishes.
        return (store.head(key) or Entry(key, 0, "") for key in self.keys)


def find_source(text: str) -> Source:
    """Read SOURCE.

    Raises:
        UsageError: it does not exist, or its list is empty.
    """
    if text.startswith("s3://"):
        raise UsageError(f"buckets are not supported by this version: {text}")
    if text == "-":
        return _listed(sys.stdin, "-")
    if text.startswith("@"):
        return _list_file(Path(text[1:]))
    path = Path(os.path.abspath(text))  # noqa: PTH100  # resolve() would follow symlinks
    if path.is_dir():
        return Source(path, None)
    if path.is_file():
        return Source(path.parent, (path.name,))
    raise UsageError(f"no such file or folder: {text}")


def _list_file(path: Path) -> Source:
    try:
        with path.open(encoding="utf-8") as lines:
            return _listed(lines, str(path))
    except OSError as error:
        raise UsageError(f"cannot read the list: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the list is not UTF-8: {path}") from error


def _listed(lines: Iterable[str], name: str) -> Source:
    paths = [Path(os.path.abspath(line)) for line in map(_strip, lines) if line]  # noqa: PTH100
    if not paths:
        raise UsageError(f"the list names no file: {name}")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    keys = dict.fromkeys(path.relative_to(root).as_posix() for path in paths)
    return Source(root, tuple(sorted(keys)))


def _strip(line: str) -> str:
    return line.rstrip("\r\n")
