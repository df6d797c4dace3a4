"""SOURCE on the command line: folders, files, a bucket, `@list.txt`, or `-`.

DEST on the command line: a folder or prefix, or the file of one cutout.

One image through the standard streams: `bgpipe submit - --out -`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bgpipe.config.output import FORMATS_BY_SUFFIX
from bgpipe.pipeline.errors import NoImages, UsageError
from bgpipe.pipeline.planning.ignored import IgnoredObjects
from bgpipe.pipeline.storage.base import is_candidate_name, is_image_name
from bgpipe.pipeline.storage.local import LocalStore

if TYPE_CHECKING:
    from bgpipe.config.output import Format
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.console import Console
    from bgpipe.pipeline.planning.ignored import IgnoredObjects

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


@dataclass(frozen=True, slots=True)
class Destination:
    """`out` is a store's location; `file` is the key of the one cutout there, or empty."""

    out: str
    file: str = ""

    def format(self, requested: str | None) -> str | None:
        """The output format: `requested`, else what the file's name asks for, else None.

        Raises:
            UsageError: the two contradict each other.

        """
        named = _format_named(self.file)
        if named is None:
            return requested
        if requested not in (None, named, "mask" if named == "png" else named):
            raise UsageError(f"--format {requested} does not go with --out {self.file}")
        return requested or named


def find_destination(out: str | None, source: Source) -> Destination:
    """Read DEST; without one it is beside the source.

    Raises:
        UsageError: DEST is no place for the cutouts of this source.

    """
    if out is None:
        return Destination(source.default_out)
    location = find_location(out)
    if out.endswith("/") or not _format_named(location) or Path(location).is_dir():
        return Destination(location)
    if source.keys is None or len(source.keys) != 1:
        raise UsageError(f"--out is the name of one file: {out}: name a folder, or end it with /")
    folder, _, name = location.rpartition("/")
    return Destination(folder or "/", name)


def _format_named(name: str) -> Format | None:
    return FORMATS_BY_SUFFIX.get(PurePosixPath(name).suffix.lower())


STDOUT = "-"
KEY = "stdin"
"""The key of the image that came through stdin."""
CUTOUT = "cutout"
"""The key of the one that goes to stdout."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a job reads and writes. `is_private`: through a folder that ends with the command."""

    source: Source
    destination: Destination
    is_private: bool
    to_stdout: bool

    def adapt(self, settings: Settings, terminal: Console) -> tuple[Settings, Console]:
        """What a private job runs with: the embedded server, and no prose on stdout."""
        if not self.is_private:
            return settings, terminal
        embedded = settings.model_copy(update={"redis_url": ""})
        return embedded, replace(terminal, quiet=terminal.quiet or self.to_stdout)

    def send(self) -> None:
        """Write the cutout to stdout, if it goes there and was made."""
        path = Path(self.destination.out) / CUTOUT
        if self.to_stdout and path.exists():
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


@contextmanager
def open_endpoints(
    texts: Sequence[str], out: str | None, terminal: Console, ignored: IgnoredObjects
) -> Iterator[Endpoints]:
    """Read SOURCE... and DEST; either may be a standard stream.

    Raises:
        UsageError: they make no sense, or an image is to go where it cannot.

    """
    with TemporaryDirectory(prefix="bgpipe-") as name:
        folder = Path(name)
        source = _stdin(folder) if list(texts) == [STDIN] else find_source(texts, ignored)
        from_stdin = source.root == name
        if from_stdin and out is None:
            raise UsageError("an image on stdin needs a place for its cutout: pass --out FILE or -")
        if out != STDOUT:
            yield Endpoints(source, find_destination(out, source), from_stdin, to_stdout=False)
            return
        _check_stdout(source, terminal)
        destination = Destination(str(folder / "out"), CUTOUT)
        yield Endpoints(source, destination, is_private=True, to_stdout=True)


def _stdin(folder: Path) -> Source:
    """An image, else a list of files."""
    from bgpipe.pipeline.images.formats import SIGNATURE, is_readable

    data = sys.stdin.buffer.read()
    if is_readable(data[:SIGNATURE]):
        (folder / KEY).write_bytes(data)
        return Source(str(folder), (KEY,))
    try:
        return read_list(data.decode().splitlines(), STDIN)
    except UnicodeDecodeError as error:
        raise UsageError("stdin holds neither an image nor a list of files") from error


def _check_stdout(source: Source, terminal: Console) -> None:
    if source.keys is None or len(source.keys) != 1:
        raise UsageError("--out - takes one image: name a file, or give it on stdin")
    if terminal.json:
        raise UsageError("--out - and --json both write to stdout: leave one out")
    if sys.stdout.isatty():
        raise UsageError("--out - would write an image to the terminal: redirect stdout")
