"""`bgpipe eval`: how good the cutouts of models and presets are, against ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.job_options import choose_model, choose_preset
from bgpipe.pipeline.cli.parameters import output_file
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.evaluation.dataset import find_pairs
from bgpipe.pipeline.processes import request_lines
from bgpipe.pipeline.session import read_settings

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.evaluation.protocol import (
        EdgeMatting,
        EvaluatedModel,
        EvaluationRequest,
        EvaluationResult,
    )
    from bgpipe.pipeline.evaluation.scores import Scores

TRUTH = "truth"
"""Instead of a model: the truth, through 1024 x 1024 pixels or `truth:SIDE`, and back."""
TRUTH_SIDE = 1024
THUMBNAIL = 320

Names = list[str] | None


@examples(
    "bgpipe eval --images photos --truth mattes",
    "bgpipe eval --images photos --truth mattes -m birefnet-nano -m birefnet-lite --html scores.html",
)
def evaluate(
    context: typer.Context,
    images: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Folder of images.", exists=True, file_okay=False),
    ],
    truth: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder of ground truth: x.png or x_alpha.png for x.jpg.",
            exists=True,
            file_okay=False,
        ),
    ],
    preset: Annotated[
        Names,
        typer.Option(
            "--preset",
            "-p",
            help="Repeat it to compare. Default: refine.preset of the settings.",
            autocompletion=completion.presets,
        ),
    ] = None,
    model: Annotated[
        Names,
        typer.Option(
            "--model",
            "-m",
            help="Repeat it to compare. Default: model.name of the settings. 'truth' scores the "
            "ground truth itself, scaled down and up again.",
            autocompletion=completion.models,
        ),
    ] = None,
    set_: Annotated[
        Names, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of every preset.")
    ] = None,
    matting: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Matting model for all: vitmatte, vitmatte-base, a path, or none.",
            autocompletion=completion.matting_models,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write a page, worst images first.", callback=output_file
        ),
    ] = None,
) -> None:
    """Score models and presets against ground truth, side by side."""
    from bgpipe.pipeline.evaluation.protocol import EvaluationRequest

    terminal: Console = context.obj
    settings = read_settings()
    pairs, alone = find_pairs(images, truth)
    if alone:
        terminal.warn(f"left out, because they have no truth: {len(alone)}, such as {alone[0]}")
    order = EvaluationRequest(
        pairs=pairs,
        sources=tuple(_source(settings, terminal, name) for name in model or [settings.model.name]),
        presets={
            name: choose_preset(settings, name, set_ or [])
            for name in preset or [settings.refine.preset]
        },
        limits=settings.images.model_dump(),
        threads=settings.worker.cpu_threads,
        thumbnail=THUMBNAIL if html else 0,
        edges=_edges(settings, terminal, matting or settings.matting.model),
    )
    results = []
    for result in _answers(order):
        results.append(result)
        terminal.print_json(_record(result))
    broken = {result.image: result.error for result in results if result.error}
    for image, error in broken.items():
        terminal.warn(f"{image}: {error}")
    _show(terminal, results, html)
    raise typer.Exit(1 if broken else 0)


def _source(settings: Settings, terminal: Console, name: str) -> EvaluatedModel:
    from bgpipe.pipeline.evaluation.protocol import EvaluatedModel

    kind, _, side = name.partition(":")
    if kind == TRUTH:
        if side and not side.isdecimal():
            raise UsageError(f"no size of a matte: {name}: write {TRUTH}:{TRUTH_SIDE}")
        return EvaluatedModel(name, (int(side or TRUTH_SIDE),) * 2, None)
    model = choose_model(settings, terminal, name)
    return EvaluatedModel(model.name, model.size, model)


def _edges(settings: Settings, terminal: Console, name: str) -> EdgeMatting | None:
    from bgpipe.pipeline.evaluation.protocol import EdgeMatting
    from bgpipe.pipeline.planning import recipe

    model = recipe.choose_edges(settings, name, notify=terminal.notify)
    return EdgeMatting(recipe.matting_with(settings, model), model) if model else None


def _answers(order: EvaluationRequest) -> Iterator[EvaluationResult]:
    """The results as they come."""
    from pydantic import TypeAdapter

    from bgpipe.pipeline.evaluation.protocol import EvaluationResult

    return request_lines(
        "bgpipe.pipeline.evaluation.__main__", order, TypeAdapter(EvaluationResult)
    )


def _record(result: EvaluationResult) -> dict[str, object]:
    found = asdict(result.scores) if result.scores else {"error": result.error}
    return {"model": result.model, "preset": result.preset, "image": result.image, **found}


def _show(terminal: Console, results: Sequence[EvaluationResult], html: Path | None) -> None:
    """The means of every trial, and the page if one is wanted."""
    means = _means(results)
    images = len({result.image for result in results})
    terminal.print_json(
        {"images": images, "trials": {name: asdict(of) for name, of in means.items()}}
    )
    for line in _table(means):
        terminal.print(line)
    if html:
        from bgpipe.pipeline.evaluation.html import quality_page

        html.write_text(quality_page(means, results), encoding="utf-8")
        terminal.print(f"page: {html}")


def _means(results: Sequence[EvaluationResult]) -> dict[str, Scores]:
    """The mean scores of each trial, over the images that have any."""
    from bgpipe.pipeline.evaluation.scores import mean_scores

    trials = dict.fromkeys(result.trial for result in results)
    scored = {
        trial: [each.scores for each in results if each.trial == trial and each.scores]
        for trial in trials
    }
    return {trial: mean_scores(scores) for trial, scores in scored.items() if scores}


def _table(means: Mapping[str, Scores]) -> Iterator[str]:
    """A line for each score, a column for each trial."""
    from bgpipe.pipeline.evaluation.scores import HIGHER_IS_BETTER

    rows = [asdict(scores) for scores in means.values()]
    names = list(rows[0]) if rows else []
    first = max(map(len, names), default=0)
    yield "  ".join(["mean".ljust(first), "better", *means])
    for name in names:
        better = "higher" if name in HIGHER_IS_BETTER else "lower "
        cells = (f"{row[name]:{len(trial)}.4g}" for trial, row in zip(means, rows, strict=True))
        yield "  ".join([name.ljust(first), better, *cells])
