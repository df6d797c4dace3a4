"""`bgpipe worker`: replaces this process by the supervisor of this machine's devices."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.errors import UsageError


@examples(
    "bgpipe worker",
    "bgpipe worker --device cuda:0 --device cuda:1",
    "bgpipe worker --device cpu --lanes 4",
)
def worker(
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="cuda:0, cuda:0.1 (a MIG instance) or cpu; repeatable. Default: every GPU."
        ),
    ] = None,
    lanes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images in flight per device.")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the model at start. Takes minutes once, then cached."
        ),
    ] = False,
) -> None:
    """Process the jobs of a cluster on this machine, one process per device."""
    from bgpipe.pipeline.session import read_settings

    if read_settings().embedded:
        raise UsageError(
            "no cluster: set BGPIPE_REDIS_URL (without it, bgpipe submit starts its own worker)"
        )
    command = [sys.executable, "-m", "bgpipe.workers"]
    for name in device or []:
        command += ["--device", name]
    if lanes:
        command += ["--lanes", str(lanes)]
    if compiled:
        command += ["--compile"]
    os.execv(sys.executable, command)  # noqa: S606  # our own module, no shell
