"""Parameters of more than one command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.errors import UsageError

JobName = Annotated[
    str | None,
    typer.Argument(metavar="JOB", help="Default: the latest job.", autocompletion=completion.jobs),
]
ThatJob = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A name that bgpipe jobs lists.", autocompletion=completion.jobs
    ),
]


def output_file(path: Path | None) -> Path | None:
    """The callback of an option that names a file to write: checked before any work is done.

    Raises:
        UsageError: the file cannot be written.

    """
    if path is None:
        return None
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"no such folder: {path.parent}: create it, or name another file")
    if path.is_dir():
        raise UsageError(f"not a file: {path}: name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"not writable: {path}: name another file, or change its permissions")
    return path
