"""DEST on the command line: a folder or prefix, or the file of one cutout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bgpipe.config.output import FORMATS_BY_SUFFIX
from bgpipe.pipeline.cli.source import Source, find_location
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.output import Format


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
