"""Parameters of more than one command.

The options of `bgpipe submit`, in the panels of its help.
"""

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


_SOURCE, _LOOK, _OUTPUT, _RUN = "Source", "Look", "Output", "Run"

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Folders, files, s3://bucket/prefix, @list.txt, or - for stdin (an image, or a list).",
        show_default=False,
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Take only matching keys; repeat it.", rich_help_panel=_SOURCE
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Leave out matching keys; repeat it.", rich_help_panel=_SOURCE
    ),
]
InputAlpha = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="Transparency of a source: multiply, keep or ignore it.",
        rich_help_panel=_SOURCE,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        help="balanced, products, portraits, catalogue or raw. Default: balanced.",
        autocompletion=completion.presets,
        rich_help_panel=_LOOK,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the preset; repeat it.",
        rich_help_panel=_LOOK,
    ),
]
Workflow = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A ComfyUI workflow instead of a preset.", rich_help_panel=_LOOK
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="A model (see bgpipe models list), or a path to safetensors. Default: auto.",
        autocompletion=completion.models,
        rich_help_panel=_LOOK,
    ),
]
Matting = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Second network for hair and fur: vitmatte, vitmatte-base, a path, or none. Default: none.",
        autocompletion=completion.matting_models,
        rich_help_panel=_LOOK,
    ),
]
Crop = Annotated[
    bool | None, typer.Option("--crop", help="Crop to the subject.", rich_help_panel=_LOOK)
]
Margin = Annotated[
    float | None,
    typer.Option(
        metavar="PERCENT",
        help="Margin, in percent of the longer side of the crop.",
        rich_help_panel=_LOOK,
    ),
]
Canvas = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Fit into 2000x2000 pixels, or pad to 4:5.", rich_help_panel=_LOOK
    ),
]
Place = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE",
        help="Position on the canvas: middle, top, bottom, left or right.",
        rich_help_panel=_LOOK,
    ),
]
Background = Annotated[
    str | None,
    typer.Option(
        metavar="COLOR",
        help="white, black, #rrggbb, or the path of an image. Default: transparent.",
        rich_help_panel=_LOOK,
    ),
]
Shadow = Annotated[
    float | None,
    typer.Option(metavar="0..1", help="Darkness of a shadow on the ground.", rich_help_panel=_LOOK),
]
Out = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DEST",
        help="Folder or s3:// prefix; for one image also a file, or - for stdout. Default: SOURCE-cutouts.",
        rich_help_panel=_OUTPUT,
    ),
]
FileFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="png, webp, avif, jpeg, mask or zip. Default: png.",
        rich_help_panel=_OUTPUT,
    ),
]
Quality = Annotated[
    int,
    typer.Option(
        metavar="1..100",
        help="Quality of JPEG, AVIF and WebP (100: lossless WebP).",
        rich_help_panel=_OUTPUT,
    ),
]
Compression = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help="PNG compression: fast, or small (many times slower).",
        rich_help_panel=_OUTPUT,
    ),
]
Depth = Annotated[
    int,
    typer.Option(
        metavar="BITS", help="8, or 16 to keep 16-bit colors in PNG.", rich_help_panel=_OUTPUT
    ),
]
Name = Annotated[
    str,
    typer.Option(
        metavar="TEMPLATE",
        help="Names of the cutouts, like {folder}/{stem}-cutout.",
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files at DEST that bgpipe did not make.",
        rich_help_panel=_OUTPUT,
    ),
]
Prune = Annotated[
    bool,
    typer.Option("--prune", help="Remove cutouts whose source is gone.", rich_help_panel=_OUTPUT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Redo what is up to date.", rich_help_panel=_RUN)
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Count what would be done, and stop.", rich_help_panel=_RUN),
]
Watch = Annotated[
    bool,
    typer.Option("--watch", help="Follow new files until Ctrl-C.", rich_help_panel=_RUN),
]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--detach",
        help="Stay until the job ends, or return once it is queued. Default: stay on a terminal.",
        rich_help_panel=_RUN,
    ),
]
NewJobName = Annotated[
    str | None,
    typer.Option(
        "--job",
        "-j",
        metavar="NAME",
        help="Name of the job. Default: date and time.",
        rich_help_panel=_RUN,
    ),
]
