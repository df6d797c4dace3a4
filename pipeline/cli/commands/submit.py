"""`bgpipe submit`: make cutouts of images, as a job."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from typer import Argument, Context, Exit, Option, Typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import LICENCE_HELP, WAIT_HELP, examples

app = Typer()


def _option(
    panel: str,
    metavar: str,
    text: str,
    *names: str,
    default: object = None,
    offer: Callable[[], Any] | None = None,
) -> Any:  # noqa: ANN401  # as dataclasses.field
    """Declare a field as an option in a panel of the help."""
    declared = Option(
        default, *names, metavar=metavar, help=text, autocompletion=offer, rich_help_panel=panel
    )
    return field(default=default, metadata={"parameter": declared})


_source, _look, _output, _run = (
    partial(_option, panel) for panel in ("Source", "Look", "Output", "Run")
)
_SOURCES_ARGUMENT = Argument(
    ...,
    metavar="SOURCE",
    help="Folders, files, s3://bucket/prefix, @list.txt, or - for stdin (an image, or a list).",
    show_default=False,
)


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Options that are fields of `Preset` or `Output` have the field's name; None: the setting's."""

    sources: list[str] = field(metadata={"parameter": _SOURCES_ARGUMENT})
    include: list[str] | None = _source("GLOB", "Take only matching keys; repeatable.")
    exclude: list[str] | None = _source("GLOB", "Skip matching keys; repeatable.")
    input_alpha: str = _source(
        "MODE", "Transparency of a source: multiply, keep or ignore it.", default="multiply"
    )
    preset: str | None = _look(
        "NAME",
        "balanced, products, portraits, catalogue or raw. Default: balanced.",
        "--preset",
        "-p",
        offer=completion.presets,
    )
    assignments: list[str] | None = _look(
        "KEY=VALUE", "Change one value of the preset; repeatable.", "--set"
    )
    workflow: Path | None = _look("FILE", "A ComfyUI workflow instead of a preset.")
    model: str | None = _look(
        "NAME",
        "A name from bgpipe models list, or a path to safetensors. Default: auto.",
        "--model",
        "-m",
        offer=completion.models,
    )
    matting: str | None = _look(
        "NAME",
        "Second network for hair and fur: vitmatte, vitmatte-base, a path, or none. Default: none.",
        offer=completion.matting_models,
    )
    accept_licence: list[str] | None = _look("NAME", LICENCE_HELP, offer=completion.all_models)
    crop: bool | None = _look("", "Crop to the subject.", "--crop")
    margin: float | None = _look("PERCENT", "Margin, in percent of the longer side of the crop.")
    canvas: str | None = _look("SIZE", "Fit into 2000x2000 pixels, or pad to 4:5.")
    place: str | None = _look("SIDE", "Position on the canvas: middle, top, bottom, left or right.")
    background: str | None = _look(
        "COLOR",
        "white, black, #rrggbb, blur:RADIUS for the photo itself, or the path of an image. "
        "Default: transparent.",
    )
    shadow: float | None = _look("0..1", "Darkness of a shadow on the ground.")
    outline: str | None = _look("WIDTH:COLOR", "Outline in pixels of the result, such as 8:white.")
    size: str | None = _look("SIZE", "Scale down to fit into 1600x1600 pixels.")
    enlarge: bool | None = _look("", "Let --size enlarge smaller images.", "--enlarge")
    out: str | None = _output(
        "DEST",
        "Folder or s3:// prefix; for one image also a file, or - for stdout. "
        "Default: SOURCE-cutouts.",
        "--out",
        "-o",
    )
    format: str | None = _output("FORMAT", "png, webp, avif, jpeg, mask or zip. Default: png.")
    quality: int = _output(
        "1..100", "Quality of JPEG, AVIF and WebP (100: lossless WebP).", default=90
    )
    compression: str = _output(
        "MODE", "PNG compression: fast, or small (many times slower).", "--png", default="fast"
    )
    depth: int = _output("BITS", "8, or 16 to keep 16-bit colors in PNG.", default=8)
    outputs: str = _output(
        "NAMES",
        "A file for each of these [outputs], such as web,print,mask.",
        default="",
        offer=completion.outputs,
    )
    name: str = _output(
        "TEMPLATE", "Names of the cutouts, such as {folder}/{stem}-cutout.", default=""
    )
    overwrite: bool = _output(
        "", "Replace files at DEST that bgpipe did not make.", "--overwrite", default=False
    )
    prune: bool = _output("", "Remove cutouts whose source is gone.", "--prune", default=False)
    review_below: float | None = _run(
        "SCORE", "Flag cutouts with a lower score, from 0 to 1, for review."
    )
    force: bool = _run("", "Redo cutouts that are up to date.", "--force", default=False)
    dry_run: bool = _run(
        "", "Count what would be done, without doing it.", "--dry-run", default=False
    )
    watch: bool = _run("", "Follow new files until Ctrl-C.", "--watch", default=False)
    wait: bool | None = _run("", WAIT_HELP, "--wait/--detach")
    job: str | None = _run("NAME", "Name of the job. Default: date and time.", "--job", "-j")


@app.command(
    epilog=examples(
        "bgpipe submit ~/photos",
        "bgpipe submit ~/photos --preset portraits --out ~/cutouts",
        "bgpipe submit in.jpg --out out.png",
        "bgpipe submit s3://shop/photos --out s3://shop/cutouts --format webp",
        "bgpipe submit ~/photos --outputs web,print,mask",
        "bgpipe submit ~/incoming --watch",
    )
)
def submit(context: Context, **values: Any) -> None:  # noqa: ANN401  # the fields of SubmitOptions
    from bgpipe.pipeline.cli.submission import submit_images

    raise Exit(submit_images(context.obj, SubmitOptions(**values)))


_parameters = [(each.name, each.type, each.metadata["parameter"]) for each in fields(SubmitOptions)]
submit.__signature__ = Signature(  # type: ignore[attr-defined]  # Typer reads it
    [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, kind, default in (("context", Context, Parameter.empty), *_parameters)
    ]
)
