"""The parameters of `bgpipe submit`, and those that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.errors import UsageError

WAIT_HELP = (
    "Wait until the job ends, or return once it is queued. Default: wait if stdout is a terminal."
)

OptionalJob = Annotated[
    str | None,
    Argument(metavar="JOB", help="Default: the latest job.", autocompletion=completion.jobs),
]
RequiredJob = Annotated[
    str,
    Argument(metavar="JOB", help="A name that bgpipe jobs lists.", autocompletion=completion.jobs),
]
Wait = Annotated[bool | None, Option("--wait/--detach", help=WAIT_HELP, show_default=False)]


def check_output_file(path: Path | None) -> Path | None:
    """Check, as an option's callback, that the file can be written before any work is done.

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


_source: Callable[..., Any] = partial(Option, rich_help_panel="Source")
_look: Callable[..., Any] = partial(Option, rich_help_panel="Look")
_output: Callable[..., Any] = partial(Option, rich_help_panel="Output")
_run: Callable[..., Any] = partial(Option, rich_help_panel="Run")


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Options that are fields of `Preset` or `Output` have the field's name; None: the setting's."""

    sources: Annotated[
        list[str],
        Argument(
            metavar="SOURCE",
            help="Folders, files, s3://bucket/prefix, @list.txt, or - for stdin (an image, or a "
            "list).",
            show_default=False,
        ),
    ]
    include: Annotated[
        list[str] | None, _source(metavar="GLOB", help="Take only matching keys; repeatable.")
    ] = None
    exclude: Annotated[
        list[str] | None, _source(metavar="GLOB", help="Skip matching keys; repeatable.")
    ] = None
    input_alpha: Annotated[
        str, _source(metavar="MODE", help="Transparency of a source: multiply, keep or ignore it.")
    ] = "multiply"
    preset: Annotated[
        str | None,
        _look(
            "--preset",
            "-p",
            metavar="NAME",
            help="balanced, products, portraits, catalogue or raw. Default: balanced.",
            autocompletion=completion.presets,
        ),
    ] = None
    assignments: Annotated[
        list[str] | None,
        _look("--set", metavar="KEY=VALUE", help="Change one value of the preset; repeatable."),
    ] = None
    workflow: Annotated[
        Path | None, _look(metavar="FILE", help="A ComfyUI workflow instead of a preset.")
    ] = None
    model: Annotated[
        str | None,
        _look(
            "--model",
            "-m",
            metavar="NAME",
            help="A model (see bgpipe models list), or a path to safetensors. Default: auto.",
            autocompletion=completion.models,
        ),
    ] = None
    matting: Annotated[
        str | None,
        _look(
            metavar="NAME",
            help="Second network for hair and fur: vitmatte, vitmatte-base, a path, or none. "
            "Default: none.",
            autocompletion=completion.matting_models,
        ),
    ] = None
    crop: Annotated[bool | None, _look("--crop", help="Crop to the subject.")] = None
    margin: Annotated[
        float | None,
        _look(metavar="PERCENT", help="Margin, in percent of the longer side of the crop."),
    ] = None
    canvas: Annotated[
        str | None, _look(metavar="SIZE", help="Fit into 2000x2000 pixels, or pad to 4:5.")
    ] = None
    place: Annotated[
        str | None,
        _look(metavar="SIDE", help="Position on the canvas: middle, top, bottom, left or right."),
    ] = None
    background: Annotated[
        str | None,
        _look(
            metavar="COLOR",
            help="white, black, #rrggbb, or the path of an image. Default: transparent.",
        ),
    ] = None
    shadow: Annotated[
        float | None, _look(metavar="0..1", help="Darkness of a shadow on the ground.")
    ] = None
    out: Annotated[
        str | None,
        _output(
            "--out",
            "-o",
            metavar="DEST",
            help="Folder or s3:// prefix; for one image also a file, or - for stdout. "
            "Default: SOURCE-cutouts.",
        ),
    ] = None
    format: Annotated[
        str | None,
        _output(metavar="FORMAT", help="png, webp, avif, jpeg, mask or zip. Default: png."),
    ] = None
    quality: Annotated[
        int, _output(metavar="1..100", help="Quality of JPEG, AVIF and WebP (100: lossless WebP).")
    ] = 90
    compression: Annotated[
        str,
        _output(
            "--png", metavar="MODE", help="PNG compression: fast, or small (many times slower)."
        ),
    ] = "fast"
    depth: Annotated[
        int, _output(metavar="BITS", help="8, or 16 to keep 16-bit colors in PNG.")
    ] = 8
    name: Annotated[
        str,
        _output(
            metavar="TEMPLATE",
            help="Names of the cutouts, such as {folder}/{stem}-cutout.",
            show_default=False,
        ),
    ] = ""
    overwrite: Annotated[
        bool, _output("--overwrite", help="Replace files at DEST that bgpipe did not make.")
    ] = False
    prune: Annotated[bool, _output("--prune", help="Remove cutouts whose source is gone.")] = False
    force: Annotated[bool, _run("--force", help="Redo cutouts that are up to date.")] = False
    dry_run: Annotated[
        bool, _run("--dry-run", help="Count what would be done, without doing it.")
    ] = False
    watch: Annotated[bool, _run("--watch", help="Follow new files until Ctrl-C.")] = False
    wait: Annotated[bool | None, _run("--wait/--detach", help=WAIT_HELP)] = None
    job: Annotated[
        str | None,
        _run("--job", "-j", metavar="NAME", help="Name of the job. Default: date and time."),
    ] = None
