"""`bgpipe eval`: scores of models and presets against ground truth."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter
from typer import Context, Exit, Option, Typer

from bgpipe.config.settings import Settings, load_settings
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples, file_option, model_option, option
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.planning import choose_model, parse_assignments
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.evaluation import protocol
from bgpipe.pipeline.evaluation.dataset import find_pairs
from bgpipe.pipeline.evaluation.html import render_quality_page
from bgpipe.pipeline.evaluation.metrics import HIGHER_IS_BETTER, Scores, mean_scores
from bgpipe.pipeline.images.limits import Limits
from bgpipe.pipeline.planning import recipe
from bgpipe.pipeline.processes import request_lines

PROGRAM = "bgpipe.pipeline.evaluation.__main__"
TRUTH = "truth"
"""In place of a model: the truth itself, scaled to 1024 x 1024 pixels or `truth:SIDE` and back."""
TRUTH_SIDE = 1024
THUMBNAIL = 320

app = Typer()
_folder = partial(Option, ..., metavar="FOLDER", exists=True, file_okay=False)


@app.command(
    "eval",
    epilog=examples(
        "bgpipe eval --images photos --truth mattes",
        "bgpipe eval --images photos --truth mattes -m birefnet-nano -m birefnet-lite --html scores.html",
    ),
)
def evaluate(
    context: Context,
    images: Path = _folder(help="Folder of images."),
    truth: Path = _folder(help="Folder of ground truth: x.png or x_alpha.png for x.jpg."),
    preset: list[str] | None = option(
        "--preset",
        "-p",
        help="Repeatable, to compare. Default: refine.preset.",
        autocompletion=completion.presets,
    ),
    model: list[str] | None = model_option(
        help="Repeatable, to compare. Default: model.name. 'truth' scores the "
        "ground truth itself, scaled down and up again."
    ),
    set_: list[str] | None = option(
        "--set", metavar="KEY=VALUE", help="Change one value of every preset."
    ),
    matting: str | None = option(
        metavar="MODEL",
        help="Matting model for all: vitmatte, vitmatte-base, a path, or none.",
        autocompletion=completion.matting_models,
    ),
    html: Path | None = file_option(help="Also write a page, worst images first."),
) -> None:
    console: Console = context.obj
    settings = load_settings()
    pairs, unpaired = find_pairs(images, truth)
    if unpaired:
        console.warn(f"ignored without ground truth: {len(unpaired)}, such as {unpaired[0]}")
    models = [_find_model(settings, console, name) for name in model or [settings.model.name]]
    changes = parse_assignments(set_ or [])
    names = preset or [settings.refine.preset]
    edges = recipe.choose_edges(settings, matting or settings.matting.model, notify=console.notify)
    request = protocol.EvaluationRequest(
        pairs=pairs,
        sources=tuple(models),
        presets={
            name: recipe.apply_changes(recipe.preset_named(settings, name), changes)
            for name in names
        },
        limits=Limits.from_settings(settings.images),
        threads=settings.worker.cpu_threads,
        thumbnail=THUMBNAIL if html else 0,
        edges=protocol.EdgeMatting(recipe.matting_with(settings, edges), edges) if edges else None,
    )
    results = []
    for result in request_lines(PROGRAM, request, TypeAdapter(protocol.EvaluationResult)):
        results.append(result)
        trial = {"model": result.model, "preset": result.preset, "image": result.image}
        console.print_json({**trial, **(result.scores or {"error": result.error})})
    errors = {result.image: result.error for result in results if result.error}
    for image, error in errors.items():
        console.warn(f"{image}: {error}")
    _show(console, results, html)
    raise Exit(1 if errors else 0)


def _find_model(settings: Settings, console: Console, name: str) -> protocol.EvaluatedModel:
    kind, _, side = name.partition(":")
    if kind == TRUTH:
        if side and not side.isdecimal():
            raise UsageError(f"not a size in pixels: {name}: write {TRUTH}:{TRUTH_SIDE}")
        return protocol.EvaluatedModel(name, (int(side or TRUTH_SIDE),) * 2, None)
    model = choose_model(settings, console, name)
    return protocol.EvaluatedModel(model.name, model.size, model)


def _show(
    console: Console, results: Sequence[protocol.EvaluationResult], html: Path | None
) -> None:
    """Print the means of every trial, and write the page if requested."""
    scored = defaultdict[str, list[Scores]](list)
    for result in results:
        if result.scores:
            scored[result.trial].append(result.scores)
    means = {trial: mean_scores(scores) for trial, scores in scored.items()}
    images = len({result.image for result in results})
    console.print_json({"images": images, "trials": means})
    rows = []
    for name in next(iter(means.values()), {}):
        better = "higher" if name in HIGHER_IS_BETTER else "lower"
        rows.append((name, better, *(f"{scores[name]:.4g}" for scores in means.values())))
    console.print_table(("mean", "better", *means), rows, right=means)
    if html:
        html.write_text(render_quality_page(means, results), encoding="utf-8")
        console.print(f"page: {html}")
