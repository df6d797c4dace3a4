"""`bgpipe doctor`: what is installed, what is reachable, what is at work, what is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli import checkup, probes
from bgpipe.pipeline.cli.exposure import exposure
from bgpipe.pipeline.cli.session import read_settings
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.finding import Finding


_LOOKS: Mapping[str, Callable[[Settings], Iterator[Finding]]] = {
    "worker": probes.worker,
    "dispatcher": probes.dispatcher,
    "security": exposure,
}


def doctor(
    context: typer.Context,
    worker: Annotated[
        bool, typer.Option("--worker", help="Only whether this machine's workers get work done.")
    ] = False,
    dispatcher: Annotated[
        bool, typer.Option("--dispatcher", help="Only whether a dispatcher leads the cluster.")
    ] = False,
    security: Annotated[
        bool, typer.Option("--security", help="What is open to others, and what closes it.")
    ] = False,
) -> None:
    """Check this machine; exit code 4 if something is missing, or open."""
    asked = [
        name
        for name, wanted in (("worker", worker), ("dispatcher", dispatcher), ("security", security))
        if wanted
    ]
    if len(asked) > 1:
        raise UsageError("one question at a time: --worker, --dispatcher or --security")
    terminal: Terminal = context.obj
    sound = True
    look = _LOOKS[asked[0]] if asked else checkup.machine
    for finding in look(read_settings()):
        sound &= finding.ok
        terminal.emit(asdict(finding))
        terminal.say(f"{'ok ' if finding.ok else 'BAD'}  {finding.what:<11} {finding.detail}")
    raise typer.Exit(0 if sound else 4)
