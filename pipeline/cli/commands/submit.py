"""`bgpipe submit`: make cutouts of images, as a job."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Exit, Option, Typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples, options_of
from bgpipe.pipeline.cli.parameters import LICENCE_HELP, WAIT_HELP, OptionalText, OptionalTexts

app = Typer()


def _in_panel(title: str) -> Callable[..., Any]:
    """Return a function that declares an option of one panel of the help."""

    def option(metavar: str, text: str, *names: str, offer: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        return Option(
            *names, metavar=metavar, help=text, autocompletion=offer, rich_help_panel=title
        )

    return option


_source, _look, _output, _run = map(_in_panel, ("Source", "Look", "Output", "Run"))


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
    include: Annotated[OptionalTexts, _source("GLOB", "Take only matching keys; repeatable.")] = (
        None
    )
    exclude: Annotated[OptionalTexts, _source("GLOB", "Skip matching keys; repeatable.")] = None
    input_alpha: Annotated[
        str, _source("MODE", "Transparency of a source: multiply, keep or ignore it.")
    ] = "multiply"
    preset: Annotated[
        OptionalText,
        _look(
            "NAME",
            "balanced, products, portraits, catalogue or raw. Default: balanced.",
            "--preset",
            "-p",
            offer=completion.presets,
        ),
    ] = None
    assignments: Annotated[
        OptionalTexts, _look("KEY=VALUE", "Change one value of the preset; repeatable.", "--set")
    ] = None
    workflow: Annotated[Path | None, _look("FILE", "A ComfyUI workflow instead of a preset.")] = (
        None
    )
    model: Annotated[
        OptionalText,
        _look(
            "NAME",
            "A name of bgpipe models list, or a path to safetensors. Default: auto.",
            "--model",
            "-m",
            offer=completion.models,
        ),
    ] = None
    matting: Annotated[
        OptionalText,
        _look(
            "NAME",
            "Second network for hair and fur: vitmatte, vitmatte-base, a path, or none. "
            "Default: none.",
            offer=completion.matting_models,
        ),
    ] = None
    accept_licence: Annotated[
        OptionalTexts,
        _look("NAME", LICENCE_HELP, offer=completion.all_models),
    ] = None
    crop: Annotated[bool | None, _look("", "Crop to the subject.", "--crop")] = None
    margin: Annotated[
        float | None, _look("PERCENT", "Margin, in percent of the longer side of the crop.")
    ] = None
    canvas: Annotated[OptionalText, _look("SIZE", "Fit into 2000x2000 pixels, or pad to 4:5.")] = (
        None
    )
    place: Annotated[
        OptionalText, _look("SIDE", "Position on the canvas: middle, top, bottom, left or right.")
    ] = None
    background: Annotated[
        OptionalText,
        _look(
            "COLOR",
            "white, black, #rrggbb, blur:RADIUS for the photo itself, or the path of an image. "
            "Default: transparent.",
        ),
    ] = None
    shadow: Annotated[float | None, _look("0..1", "Darkness of a shadow on the ground.")] = None
    outline: Annotated[
        OptionalText, _look("WIDTH:COLOR", "Outline in pixels of the result, such as 8:white.")
    ] = None
    size: Annotated[OptionalText, _look("SIZE", "Scale down to fit into 1600x1600 pixels.")] = None
    enlarge: Annotated[
        bool | None, _look("", "Let --size enlarge smaller images.", "--enlarge")
    ] = None
    out: Annotated[
        OptionalText,
        _output(
            "DEST",
            "Folder or s3:// prefix; for one image also a file, or - for stdout. "
            "Default: SOURCE-cutouts.",
            "--out",
            "-o",
        ),
    ] = None
    format: Annotated[
        OptionalText, _output("FORMAT", "png, webp, avif, jpeg, mask or zip. Default: png.")
    ] = None
    quality: Annotated[
        int, _output("1..100", "Quality of JPEG, AVIF and WebP (100: lossless WebP).")
    ] = 90
    compression: Annotated[
        str, _output("MODE", "PNG compression: fast, or small (many times slower).", "--png")
    ] = "fast"
    depth: Annotated[int, _output("BITS", "8, or 16 to keep 16-bit colors in PNG.")] = 8
    outputs: Annotated[
        str,
        _output(
            "NAMES",
            "A file for each of these [outputs], such as web,print,mask.",
            offer=completion.outputs,
        ),
    ] = ""
    name: Annotated[
        str, _output("TEMPLATE", "Names of the cutouts, such as {folder}/{stem}-cutout.")
    ] = ""
    overwrite: Annotated[
        bool, _output("", "Replace files at DEST that bgpipe did not make.", "--overwrite")
    ] = False
    prune: Annotated[bool, _output("", "Remove cutouts whose source is gone.", "--prune")] = False
    review_below: Annotated[
        float | None, _run("SCORE", "Flag cutouts with a lower score, from 0 to 1, for review.")
    ] = None
    force: Annotated[bool, _run("", "Redo cutouts that are up to date.", "--force")] = False
    dry_run: Annotated[
        bool, _run("", "Count what would be done, without doing it.", "--dry-run")
    ] = False
    watch: Annotated[bool, _run("", "Follow new files until Ctrl-C.", "--watch")] = False
    wait: Annotated[bool | None, _run("", WAIT_HELP, "--wait/--detach")] = None
    job: Annotated[
        OptionalText, _run("NAME", "Name of the job. Default: date and time.", "--job", "-j")
    ] = None


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
@options_of(SubmitOptions)
def submit(context: Context, options: SubmitOptions) -> None:
    from bgpipe.pipeline.cli.submission import submit_images

    raise Exit(submit_images(context.obj, options))
