"""SOURCE and DEST of the command line: locations, lists of files, and the standard streams."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from bgpipe.config.output import FORMATS_BY_SUFFIX, Format
from bgpipe.config.settings import Settings
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import NoImages, UsageError
from bgpipe.pipeline.images.formats import SIGNATURE, is_readable
from bgpipe.pipeline.planning.planner import IgnoredObjects
from bgpipe.pipeline.storage.base import S3, is_candidate_name, is_image_name
from bgpipe.pipeline.storage.factory import find_location
from bgpipe.pipeline.storage.local import LocalStore

STREAM = "-"
STDIN_KEY = "stdin"
"""The key of an image from stdin."""
STDOUT_KEY = "cutout"
"""The key of a cutout for stdout."""


@dataclass(frozen=True, slots=True)
class Source:
    """`root` is the location that keys are relative to; `keys` is None for all of it."""

    root: str
    keys: tuple[str, ...] | None

    @property
    def is_one_image(self) -> bool:
        return self.keys is not None and len(self.keys) == 1

    @property
    def default_out(self) -> str:
        """The sibling `<folder>-cutouts`. Raises UsageError for a whole bucket or file system."""
        if self.root == "/" or (self.root.startswith(S3) and "/" not in self.root.removeprefix(S3)):
            raise UsageError(f"no folder beside {self.root} for the cutouts: pass --out")
        return f"{self.root}-cutouts"


@dataclass(frozen=True, slots=True)
class Destination:
    """`out` is a store's location; `file` is the key of the only cutout, or empty."""

    out: str
    file: str = ""

    @property
    def is_stdout(self) -> bool:
        return self.file == STDOUT_KEY

    def format(self, requested: str | None) -> str | None:
        """Return `requested`, else the format of the file's suffix, else None. Raises UsageError."""
        named = _format_of(self.file)
        if named is None:
            return requested
        if requested not in (None, named, "mask" if named == "png" else named):
            raise UsageError(f"--format {requested} does not match --out {self.file}")
        return requested or named


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a job reads and writes. `is_private`: in a folder that ends with the command."""

    source: Source
    destination: Destination
    is_private: bool

    def adapt(self, settings: Settings, console: Console) -> tuple[Settings, Console]:
        """Make a private job use the embedded server and print no prose to stdout."""
        if not self.is_private:
            return settings, console
        embedded = settings.model_copy(update={"redis_url": ""})
        return embedded, replace(console, quiet=console.quiet or self.destination.is_stdout)

    def write_stdout(self) -> None:
        """Write the cutout to stdout if it belongs there and exists."""
        path = Path(self.destination.out) / STDOUT_KEY
        if self.destination.is_stdout and path.exists():
            sys.stdout.buffer.write(path.read_bytes())
            sys.stdout.buffer.flush()


@contextmanager
def open_endpoints(
    texts: Sequence[str], out: str | None, console: Console, ignored: IgnoredObjects
) -> Iterator[Endpoints]:
    """Read SOURCE... and DEST; either may be a standard stream. Raises UsageError."""
    with TemporaryDirectory(prefix="bgpipe-") as folder:
        is_stdin = list(texts) == [STREAM]
        source = _read_stdin(Path(folder)) if is_stdin else find_source(texts, ignored)
        from_stdin = source.root == folder
        if from_stdin and out is None:
            raise UsageError("no destination for an image from stdin: pass --out FILE or --out -")
        if out == STREAM:
            _check_stdout(source, console)
            destination = Destination(f"{folder}/out", STDOUT_KEY)
        else:
            destination = find_destination(out, source)
        yield Endpoints(source, destination, from_stdin or out == STREAM)


def find_source(texts: Sequence[str], ignored: IgnoredObjects) -> Source:
    """Read SOURCE...; the root of several is the deepest folder that contains them all.

    In a bucket, an address with an image's suffix is an object, any other one a prefix. Of several
    files, as a shell makes of `*`, those without an image's suffix go into `ignored`. Raises UsageError
    if one does not exist, has an unsupported scheme, or a list is empty; NoImages if none is an image.
    """
    if len(texts) == 1:
        return _find_one(texts[0])
    locations = [location for text in texts for location in _expand(text, ignored.add_unread)]
    if not locations:
        raise NoImages(f"no images: {ignored}")
    return _combine(locations, "SOURCE")


def find_destination(out: str | None, source: Source) -> Destination:
    """Read DEST; the default is beside the source. Raises UsageError if DEST does not fit it."""
    if out is None:
        return Destination(source.default_out)
    location = find_location(out)
    if out.endswith("/") or not _format_of(location) or Path(location).is_dir():
        return Destination(location)
    if not source.is_one_image:
        raise UsageError(f"--out is the name of one file: {out}: name a folder, or end it with /")
    folder, _, name = location.rpartition("/")
    return Destination(folder or "/", name)


def _find_one(text: str) -> Source:
    if text.startswith("@"):
        try:
            return _read_list(Path(text[1:]).read_bytes(), text[1:])
        except OSError as error:
            raise UsageError(f"list is not readable: {text[1:]}: {error.strerror}") from error
    location = find_location(text)
    if location.startswith(S3):
        root, _, name = text.rpartition("/")
        return Source(root, (name,)) if is_image_name(name) else Source(location, None)
    path = _existing_path(location, text)
    return Source(location, None) if path.is_dir() else Source(str(path.parent), (path.name,))


def _expand(text: str, ignore: Callable[[str], None]) -> Iterator[str]:
    """Yield the locations of the images of one of several sources."""
    if text.startswith("@") or text == STREAM:
        raise UsageError(f"a list cannot be combined with other sources: {text}: submit it alone")
    location = find_location(text)
    if location.startswith(S3):
        if not is_image_name(text.rpartition("/")[2]):
            reason = "a prefix cannot be combined with other sources"
            raise UsageError(f"{reason}: {text}: submit it alone")
        yield location
    elif (path := _existing_path(location, text)).is_dir():
        yield from (f"{location}/{entry.key}" for entry in LocalStore(path).list(on_skipped=ignore))
    elif is_candidate_name(path.name):
        yield location
    else:
        ignore(path.name)


def _existing_path(location: str, text: str) -> Path:
    if not os.access(location, os.F_OK):
        raise UsageError(f"no such file or folder: {text}")
    return Path(location)


def _read_stdin(folder: Path) -> Source:
    """Save an image from stdin in `folder`, or read a list of files from it."""
    data = sys.stdin.buffer.read()
    if is_readable(data[:SIGNATURE]):
        (folder / STDIN_KEY).write_bytes(data)
        return Source(str(folder), (STDIN_KEY,))
    return _read_list(data, STREAM)


def _read_list(data: bytes, name: str) -> Source:
    """Read files or objects, one per line."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        of_stdin = "stdin holds neither an image nor a list of files"
        raise UsageError(of_stdin if name == STREAM else f"list is not UTF-8: {name}") from error
    locations = [find_location(text) for line in lines if (text := line.rstrip("\r"))]
    if not locations:
        raise UsageError(f"the list is empty: {name}")
    return _combine(locations, name)


def _combine(locations: Sequence[str], name: str) -> Source:
    """Make locations keys below their deepest common folder."""
    shared = os.path.commonprefix([location.split("/")[:-1] for location in locations])  # noqa: RUF071  # of parts
    if shared in ([], S3.split("/")[:-1]):
        raise UsageError(f"sources of several stores: {name}: submit each bucket by itself")
    root = "/".join(shared)
    keys = {location[len(root) + 1 :] for location in locations}
    return Source(root or "/", tuple(sorted(keys)))


def _format_of(name: str) -> Format | None:
    return FORMATS_BY_SUFFIX.get(PurePosixPath(name).suffix.lower())


def _check_stdout(source: Source, console: Console) -> None:
    if not source.is_one_image:
        raise UsageError("--out - takes one image: name a file, or pass it on stdin")
    if console.json:
        raise UsageError("--out - and --json both write to stdout: drop one")
    if sys.stdout.isatty():
        raise UsageError("--out - would write an image to the terminal: redirect stdout")
