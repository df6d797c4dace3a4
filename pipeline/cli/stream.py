"""One image through the standard streams: `bgpipe submit - --out -`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bgpipe.pipeline.cli.destination import Destination, find_destination
from bgpipe.pipeline.cli.source import STDIN, Source, find_source, read_list
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.terminal import Console
    from bgpipe.pipeline.ignored import IgnoredObjects

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
