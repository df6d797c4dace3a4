"""`bgpipe doctor`: what is installed, what is reachable, what is at work, what is open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli import checkup, probes
from bgpipe.pipeline.cli.session import read_settings
from bgpipe.pipeline.cli.terminal import Terminal
from bgpipe.pipeline.errors import UsageError

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.cli.finding import Finding


def doctor(
    context: typer.Context,
    worker: Annotated[
        bool, typer.Option("--worker", help="Only whether this machine's workers get work done.")
    ] = False,
    dispatcher: Annotated[
        bool, typer.Option("--dispatcher", help="Only whether a dispatcher leads the cluster.")
    ] = False,
) -> None:
    """Check this machine; exit code 4 if something is missing."""
    if worker + dispatcher > 1:
        raise UsageError("one question at a time: --worker or --dispatcher")
    terminal: Terminal = context.obj
    sound = True
    for finding in _findings(read_settings(), worker=worker, dispatcher=dispatcher):
        sound &= finding.ok
        terminal.emit(asdict(finding))
        terminal.say(f"{'ok ' if finding.ok else 'BAD'}  {finding.what:<11} {finding.detail}")
    raise typer.Exit(0 if sound else 4)


def _findings(settings: Settings, *, worker: bool, dispatcher: bool) -> Iterator[Finding]:
    if worker:
        return probes.worker(settings)
    if dispatcher:
        return probes.dispatcher(settings)
    return checkup.machine(settings)
