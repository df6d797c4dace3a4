"""What SOURCE and DEST on the command line mean: a folder, a file, a bucket, `@list.txt`, or `-`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.storage import Store
from bgpipe.pipeline.storage.base import is_image_name
from bgpipe.pipeline.types import Entry

S3 = "s3://"


@dataclass(frozen=True, slots=True)
class Source:
    """`root` is the location that keys are relative to; `keys` is None for all of it."""

    root: str
    keys: tuple[str, ...] | None

    @property
    def default_out(self) -> str:
        """The sibling `<folder>-cutouts`.

        Raises:
            UsageError: the source is a whole bucket, which has no sibling.
        """
        if self.root.startswith(S3) and "/" not in self.root.removeprefix(S3):
            raise UsageError(f"no place beside a whole bucket: {self.root}: name one with --out")
        return f"{self.root}-cutouts"

    def entries(self, store: Store) -> Iterator[Entry]:
        if self.keys is None:
            return store.list()
        # What is named and not there is an item that fails, not one that vanishes.
        return (store.head(key) or Entry(key, 0, "") for key in self.keys)


def find_source(text: str) -> Source:
    """Read SOURCE.

    In a bucket, an address that ends like an image's name is one object, any other one a prefix.

    Raises:
        UsageError: it does not exist, or its list is empty.
    """
    if text == "-":
        return _listed(sys.stdin, "-")
    if text.startswith("@"):
        return _list_file(Path(text[1:]))
    if text.startswith(S3):
        root, _, name = text.rpartition("/")
        return Source(root, (name,)) if is_image_name(name) else Source(text.rstrip("/"), None)
    path = Path(_absolute(text))
    if path.is_dir():
        return Source(str(path), None)
    if path.is_file():
        return Source(str(path.parent), (path.name,))
    raise UsageError(f"no such file or folder: {text}")


def find_target(text: str) -> str:
    """The location that DEST names."""
    return text if text.startswith(S3) else _absolute(text)


def _list_file(path: Path) -> Source:
    try:
        with path.open(encoding="utf-8") as lines:
            return _listed(lines, str(path))
    except OSError as error:
        raise UsageError(f"cannot read the list: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the list is not UTF-8: {path}") from error


def _listed(lines: Iterable[str], name: str) -> Source:
    words = [line for line in map(_strip, lines) if line]
    if not words:
        raise UsageError(f"the list names no file: {name}")
    if not any(word.startswith(S3) for word in words):
        return _below("/", [_absolute(word) for word in words])
    buckets = {word.removeprefix(S3).partition("/")[0] for word in words if word.startswith(S3)}
    if len(buckets) > 1 or not all(word.startswith(S3) for word in words):
        raise UsageError(f"the list names more than one place: {name}: make a list for each")
    return _below(f"{S3}{buckets.pop()}/", words)


def _below(top: str, places: list[str]) -> Source:
    """`places` as keys under the deepest folder that holds them all; they start with `top`."""
    folders = [place.removeprefix(top).split("/")[:-1] for place in places]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    root = top + "/".join(parts[0] for parts in shared)
    start = len(root) if root.endswith("/") else len(root) + 1
    keys = {place[start:] for place in places}
    return Source(root.rstrip("/") or "/", tuple(sorted(keys)))


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # resolve() would follow symlinks


def _strip(line: str) -> str:
    return line.rstrip("\r\n")
