"""SOURCE on the command line: folders, files, a bucket, `@list.txt`, or `-`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from bgpipe.pipeline.errors import NoImages, UsageError
from bgpipe.pipeline.ignored import IgnoredObjects
from bgpipe.pipeline.storage import LocalStore
from bgpipe.pipeline.storage.base import is_candidate_name, is_image_name

S3 = "s3://"
STDIN = "-"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True, slots=True)
class Source:
    """`root` is the location that keys are relative to; `keys` is None for all of it."""

    root: str
    keys: tuple[str, ...] | None

    @property
    def default_out(self) -> str:
        """The sibling `<folder>-cutouts`.

        Raises:
            UsageError: the source is a whole bucket or file system, which has no sibling.

        """
        if self.root == "/" or (self.root.startswith(S3) and "/" not in self.root.removeprefix(S3)):
            raise UsageError(f"no folder beside {self.root} for the cutouts: pass --out")
        return f"{self.root}-cutouts"


def find_source(texts: Sequence[str], ignored: IgnoredObjects | None = None) -> Source:
    """Read SOURCE...; several are taken together, below the deepest folder that holds them all.

    In a bucket, an address that ends like an image's name is one object, any other one a prefix.
    Of several files, as a shell makes of `*`, those that are not images by their names go into
    `ignored`.

    Raises:
        UsageError: one does not exist, has an unsupported scheme, or a list is empty.
        NoImages: none of several is an image.

    """
    if len(texts) == 1:
        return _single(texts[0])
    ignored = IgnoredObjects() if ignored is None else ignored
    places = [place for text in texts for place in _expanded(text, ignored.add_unread)]
    if not places:
        raise NoImages(f"no images: {ignored}")
    return _together(places, "SOURCE")


def read_list(lines: Iterable[str], name: str) -> Source:
    """The files or objects that `lines` name, one each.

    Raises:
        UsageError: there are none, or they are in several places.

    """
    words = [line for line in map(_strip, lines) if line]
    if not words:
        raise UsageError(f"the list is empty: {name}")
    return _together([_location(word) for word in words], name)


def find_location(text: str) -> str:
    """The store location that a path or an address names.

    Raises:
        UsageError: its scheme is not supported, or it names no bucket.

    """
    return _location(text).rstrip("/") or "/"


def _single(text: str) -> Source:
    if text.startswith("@"):
        return _list_file(Path(text[1:]))
    location = _location(text)
    if location.startswith(S3):
        root, _, name = location.rpartition("/")
        return Source(root, (name,)) if is_image_name(name) else Source(location.rstrip("/"), None)
    path = _existing(location, text)
    return Source(location, None) if path.is_dir() else Source(str(path.parent), (path.name,))


def _expanded(text: str, ignore: Callable[[str], None]) -> Iterator[str]:
    """The locations of the images that one of several sources names."""
    if text.startswith("@") or text == STDIN:
        raise UsageError(f"a list is a source of its own: {text}: submit it alone")
    location = _location(text)
    if location.startswith(S3):
        if not is_image_name(location.rpartition("/")[2]):
            raise UsageError(f"a prefix is a source of its own: {text}: submit it alone")
        yield location
        return
    path = _existing(location, text)
    if path.is_dir():
        yield from (f"{location}/{entry.key}" for entry in LocalStore(path).list(on_skipped=ignore))
    elif is_candidate_name(path.name):
        yield location
    else:
        ignore(path.name)


def _existing(location: str, text: str) -> Path:
    path = Path(location)
    if not os.access(path, os.F_OK):
        raise UsageError(f"no such file or folder: {text}")
    return path


def _location(text: str) -> str:
    """An absolute path, or an address in a bucket as it is."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        return os.path.abspath(text)  # noqa: PTH100  # resolve() would follow symlinks
    if scheme[0] != S3:
        raise UsageError(f"unsupported scheme: {text}: use a folder or s3://bucket/prefix")
    if not text.removeprefix(S3).partition("/")[0]:
        raise UsageError(f"no bucket named: {text}: write s3://bucket/prefix")
    return text


def _list_file(path: Path) -> Source:
    try:
        with path.open(encoding="utf-8") as lines:
            return read_list(lines, str(path))
    except OSError as error:
        raise UsageError(f"cannot read the list: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the list is not UTF-8: {path}") from error


def _together(places: Sequence[str], name: str) -> Source:
    """Locations as the keys of one store."""
    if not any(place.startswith(S3) for place in places):
        return _below("/", places)
    buckets = {place.removeprefix(S3).partition("/")[0] for place in places if place.startswith(S3)}
    if len(buckets) > 1 or not all(place.startswith(S3) for place in places):
        raise UsageError(f"more than one place: {name}: submit each bucket and the files apart")
    return _below(f"{S3}{buckets.pop()}/", places)


def _below(top: str, places: Sequence[str]) -> Source:
    """`places` as keys under the deepest folder that holds them all; they start with `top`."""
    folders = [place.removeprefix(top).split("/")[:-1] for place in places]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    root = top + "/".join(parts[0] for parts in shared)
    start = len(root) if root.endswith("/") else len(root) + 1
    keys = {place[start:] for place in places}
    return Source(root.rstrip("/") or "/", tuple(sorted(keys)))


def _strip(line: str) -> str:
    return line.rstrip("\r\n")
