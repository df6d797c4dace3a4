"""`bgpipe bench`: how fast this machine is, and how much of it a device needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bgpipe.pipeline.cli.session import read_settings
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import UsageError


def bench(
    context: typer.Context,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what one device needs around it; measure nothing.")
    ] = False,
    images_per_second: Annotated[
        float | None,
        typer.Option(min=0.001, help="What the device alone can do; default: that of [estimate]."),
    ] = None,
    megapixels: Annotated[float, typer.Option(min=0.01, help="Of a typical source.")] = 12.0,
    cores: Annotated[float, typer.Option(min=0, help="That there are for it; 0: enough.")] = 0,
    connections: Annotated[int, typer.Option(min=0, help="To the storage at once; 0: enough.")] = 0,
    images: Annotated[int, typer.Option(min=1, help="To estimate hours and cost of.")] = 1_000_000,
    request_ms: Annotated[
        float, typer.Option(min=0, help="Before the first byte of a request to the storage.")
    ] = 50.0,
    megabytes_per_second: Annotated[
        float, typer.Option(min=0.001, help="Of one connection to the storage.")
    ] = 80.0,
) -> None:
    """Work out cores, connections, lanes and memory for a device (infra/docs/sizing.md)."""
    from bgpipe.pipeline import sizing

    if not plan:
        raise UsageError("nothing to do: bgpipe bench --plan works out what a device needs")
    estimate = read_settings().estimate
    pace = images_per_second or estimate.images_per_second
    if not pace:
        raise UsageError(
            "how fast is the device? say --images-per-second N, or set estimate.images_per_second"
        )
    found = sizing.plan(
        sizing.Load(pace, megapixels, images),
        sizing.Host(cores, connections),
        sizing.Storage(request_ms / 1e3, megabytes_per_second * 1e6),
        estimate.price_per_hour,
    )
    terminal: Terminal = context.obj
    terminal.emit(asdict(found))
    terminal.say(
        f"to keep a device of {pace:g} images/s busy with {megapixels:g} megapixels each: "
        f"{found.cores} cores, {found.connections} connections, {found.lanes} lanes, "
        f"{found.memory / 1e9:.1f} GB for images in flight"
    )
    cost = "" if found.cost is None else f", at a cost of {found.cost:.2f}"
    terminal.say(
        f"so it does {found.images_per_second:.1f} images/s (limit: {found.limit}): {images} images "
        f"in {found.hours:.1f} hours{cost}"
    )
