"""`bgpipe bench`: how fast this machine is, and how much of it a device needs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.config.precision import Precision
from bgpipe.pipeline.cli import completion
from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.session import read_settings
from bgpipe.pipeline.cli.terminal import Console
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.sizing import Load, Plan

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
        from bgpipe.pipeline import sizing

        storage = sizing.Storage(request_ms / 1e3, megabytes_per_second * 1e6)
        host = sizing.Host(cores, connections)
        load = sizing.Load(_pace(settings, images_per_second), megapixels, images)
        return _show(
            terminal, load, sizing.plan(load, host, storage, settings.estimate.price_per_hour)
        )
    from bgpipe.pipeline.cli.measure import BenchOptions, run_bench

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
