"""Measuring for `bgpipe bench`: the network alone, then whole images, as tables or JSON lines.

`bgpipe bench`: how fast this machine is, and how much of it a device needs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.config.choices import Precision
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.cli.job_options import choose_model
from bgpipe.pipeline.errors import Unavailable, UsageError
from bgpipe.pipeline.processes import request_lines
from bgpipe.pipeline.session import read_settings

if TYPE_CHECKING:
    from bgpipe.config.choices import Precision
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.bench.protocol import EndToEndResult, NetworkResult
    from bgpipe.pipeline.bench.sizing import Load, Plan
    from bgpipe.pipeline.types import ResolvedModel

SIZES = (1.0, 4.0, 12.0, 24.0)
STAGES = ("read", "decode", "resize", "infer", "refine", "encode", "write")
MIB = 2**20
DEVICE = "{:<10} {:>5} {:>9} {:>9} {:>8} {:>6}"
WHOLE = "{:>5} {:>7} {:>9} {:>6} {:>8}  {}"


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is measured; what is empty is chosen for the device."""

    model: str
    random: bool
    device: bool
    whole: bool
    precisions: tuple[Precision, ...]
    batches: tuple[int, ...]
    compiled: bool
    graphs: bool
    sizes: tuple[float, ...]
    seconds: float


def run_bench(settings: Settings, terminal: Console, choices: BenchOptions) -> None:
    """Measure and tell, line by line.

    Raises:
        UsageError, ModelUnavailable: as of the choice of a model.
        Unavailable: a process of the measurement ends too early.

    """
    with tempfile.TemporaryDirectory(prefix="bgpipe-bench-") as folder:
        model = _model(settings, terminal, choices, Path(folder))
        terminal.print_json({"model": choices.model, "size": model.size, "random": choices.random})
        height, width = model.size
        chance = ", weights by chance" if choices.random else ""
        terminal.print(f"{choices.model}, {height}x{width}{chance}")
        if choices.device:
            _device(settings, terminal, choices, model)
        if choices.whole:
            _whole(settings, terminal, choices, model, Path(folder))


def _device(
    settings: Settings, terminal: Console, choices: BenchOptions, model: ResolvedModel
) -> None:
    from pydantic import TypeAdapter

    from bgpipe.pipeline.bench.protocol import BenchRequest, Machine, NetworkResult

    order = BenchRequest(
        model,
        choices.precisions,
        choices.batches,
        settings.worker.cpu_threads,
        choices.seconds,
        choices.compiled,
        choices.graphs,
    )
    line = TypeAdapter[Machine | NetworkResult](Machine | NetworkResult)
    for found in request_lines("bgpipe.pipeline.bench.network", order, line):
        if isinstance(found, Machine):
            terminal.print_json({"machine": asdict(found)})
            terminal.print(f"{found.product}, {found.software}: the network alone")
            terminal.print(DEVICE.format("precision", "batch", "images/s", "ms", "MiB", "peak"))
        else:
            terminal.print_json({"forward": asdict(found)})
            terminal.print(_device_row(found))


def _device_row(found: NetworkResult) -> str:
    if found.error:
        return f"{found.precision:<10} {found.batch:>5}  {found.error}"
    return DEVICE.format(
        found.precision,
        found.batch,
        f"{found.images_per_second:.3g}",
        f"{found.milliseconds:.1f}",
        f"{found.memory / MIB:.0f}",
        f"{found.share_of_peak:.0%}",
    )


def _whole(
    settings: Settings, terminal: Console, choices: BenchOptions, model: ResolvedModel, folder: Path
) -> None:
    from bgpipe.pipeline.bench import end_to_end
    from bgpipe.pipeline.models.registry import NO_MATTING
    from bgpipe.pipeline.planning.recipe import build_recipe

    recipe = build_recipe(settings, model=model, matting=NO_MATTING).recipe
    terminal.print(f"from file to cutout, preset {settings.refine.preset}; stages in ms an image")
    terminal.print(WHOLE.format("MP", "images", "images/s", "busy", "MiB", "stages"))
    with end_to_end.bench_cluster(settings, folder) as line:
        for found in line.measure(recipe, choices.sizes or SIZES, choices.seconds):
            terminal.print_json({"whole": asdict(found)})
            terminal.print(_whole_row(found))


def _whole_row(found: EndToEndResult) -> str:
    stages = "  ".join(f"{name} {1e3 * found.stages[name]:.0f}" for name in STAGES)
    return WHOLE.format(
        f"{found.megapixels:g}",
        found.images,
        f"{found.images_per_second:.3g}",
        f"{found.device_busy:.0%}",
        f"{found.memory / MIB:.0f}",
        stages,
    )


def _model(
    settings: Settings, terminal: Console, choices: BenchOptions, folder: Path
) -> ResolvedModel:
    """The weights of the name, or others of the same shape made by chance."""
    from bgpipe.pipeline.models import registry

    if not choices.random:
        return choose_model(settings, terminal, choices.model)
    entry = registry.read_models().get(choices.model)
    if entry is None:
        raise UsageError(f"--random knows the names of bgpipe models list, not {choices.model}")
    path = folder / f"{choices.model}.safetensors"
    command = [
        sys.executable,
        "-m",
        "bgpipe.pipeline.bench.random_weights",
        entry.backbone,
        str(path),
    ]
    if subprocess.run(command, check=False).returncode:  # noqa: S603  # our own module
        raise Unavailable("no weights were made: see the message above")
    made = registry.resolve(str(path), cache=settings.model_folder, hub=None)
    return replace(made, size=entry.size)


PLAN = "With --plan"


class BenchPart(StrEnum):
    """What is measured."""

    DEVICE = "device"
    WHOLE = "whole"


@examples(
    "bgpipe bench --model birefnet-nano",
    "bgpipe bench --model birefnet-general --random --only device",
    "bgpipe bench --plan --images-per-second 40 --cores 16",
)
def bench(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A name, or a path to safetensors. Default: model.name of the settings.",
            autocompletion=completion.models,
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Use random weights: as fast as trained ones.")
    ] = False,
    only: Annotated[
        BenchPart | None,
        typer.Option(
            metavar="device|whole",
            help="Measure only the network (device), or only from file to cutout (whole).",
        ),
    ] = None,
    precision: Annotated[
        list[Precision] | None,
        typer.Option(
            metavar="|".join(Precision),
            help="For the network alone; repeat it for more. Default: all that the device has.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Images per forward pass; repeat it for more. Default: 1, 2, 4 ...",
        ),
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network before it is measured alone.")
    ] = False,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="Run the network alone with CUDA graphs.")
    ] = False,
    size: Annotated[
        list[float] | None,
        typer.Option(
            metavar="MP",
            min=0.01,
            help="Megapixels of whole images; repeat it for more. Default: 1, 4, 12 and 24.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Duration of each measurement.")] = 10.0,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Print the host that one device needs, without a measurement."),
    ] = False,
    images_per_second: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.001,
            help="Speed of the device alone. Default: that of [estimate] in the settings.",
            rich_help_panel=PLAN,
        ),
    ] = None,
    megapixels: Annotated[
        float,
        typer.Option(metavar="N", min=0.01, help="Size of a typical image.", rich_help_panel=PLAN),
    ] = 12.0,
    cores: Annotated[
        float,
        typer.Option(
            metavar="N", min=0, help="CPU cores per device; 0: enough.", rich_help_panel=PLAN
        ),
    ] = 0,
    connections: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Concurrent connections to the storage; 0: enough.",
            rich_help_panel=PLAN,
        ),
    ] = 0,
    images: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Images to estimate hours and cost for.", rich_help_panel=PLAN
        ),
    ] = 1_000_000,
    request_ms: Annotated[
        float,
        typer.Option(
            metavar="MS",
            min=0,
            help="Latency of the storage to the first byte.",
            rich_help_panel=PLAN,
        ),
    ] = 50.0,
    megabytes_per_second: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.001,
            help="Throughput of one connection to the storage.",
            rich_help_panel=PLAN,
        ),
    ] = 80.0,
) -> None:
    """Measure the speed of this machine, or plan the host of a device (infra/docs/sizing.md)."""
    settings, terminal = read_settings(), context.obj
    if plan:
        from bgpipe.pipeline.bench import sizing

        storage = sizing.Storage(request_ms / 1e3, megabytes_per_second * 1e6)
        host = sizing.Host(cores, connections)
        load = sizing.Load(_pace(settings, images_per_second), megapixels, images)
        return _show(
            terminal, load, sizing.plan(load, host, storage, settings.estimate.price_per_hour)
        )
    # MOVED

    run_bench(
        settings,
        terminal,
        BenchOptions(
            model=model or settings.model.name,
            random=random,
            device=only is not BenchPart.WHOLE,
            whole=only is not BenchPart.DEVICE,
            precisions=tuple(precision or ()),
            batches=tuple(batch or ()),
            compiled=compile_,
            graphs=graphs,
            sizes=tuple(size or ()),
            seconds=seconds,
        ),
    )
    return None


def _pace(settings: Settings, given: float | None) -> float:
    pace = given or settings.estimate.images_per_second
    if not pace:
        raise UsageError(
            "how fast is the device? say --images-per-second N, or set estimate.images_per_second"
        )
    return pace


def _show(terminal: Console, load: Load, found: Plan) -> None:
    terminal.print_json(asdict(found))
    terminal.print(
        f"to keep a device of {load.images_per_second:g} images/s busy with {load.megapixels:g} "
        f"megapixels each: {found.cores} cores, {found.connections} connections, {found.lanes} "
        f"lanes, {found.memory / 1e9:.1f} GB for images in flight"
    )
    cost = "" if found.cost is None else f", at a cost of {found.cost:.2f}"
    terminal.print(
        f"so it does {found.images_per_second:.1f} images/s (limit: {found.limit}): {load.images} "
        f"images in {found.hours:.1f} hours{cost}"
    )
