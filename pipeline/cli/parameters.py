"""Parameters that several commands share."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.errors import UsageError

WAIT_HELP = "Wait for the end, or only queue the job. Default: wait on a terminal."
LICENCE_HELP = "Accept the terms of a model (bgpipe models info NAME); repeatable."

OptionalText = str | None
OptionalTexts = list[str] | None

OptionalJob = Annotated[
    OptionalText,
    Argument(metavar="JOB", help="Default: the latest job.", autocompletion=completion.jobs),
]
RequiredJob = Annotated[
    str,
    Argument(metavar="JOB", help="A name that bgpipe jobs lists.", autocompletion=completion.jobs),
]
Wait = Annotated[bool | None, Option("--wait/--detach", help=WAIT_HELP, show_default=False)]


def check_output_file(path: Path | None) -> Path | None:
    """Raise UsageError, as an option's callback before any work, if the file cannot be written."""
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
