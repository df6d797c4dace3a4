"""`bgpipe doctor`: what is installed, what is reachable, what is at work, what is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bgpipe.pipeline.cli.command_line import examples
from bgpipe.pipeline.cli.commands.config import checked
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.diagnostics import checks
from bgpipe.pipeline.diagnostics.security import security_checks
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.logging import report_wait

if TYPE_CHECKING:
    from bgpipe.config.settings import Settings
    from bgpipe.pipeline.diagnostics.checks import Check


_LOOKS: Mapping[str, Callable[[Settings], Iterator[Check]]] = {
    "worker": checks.check_worker,
    "dispatcher": checks.check_dispatcher,
    "security": security_checks,
}


@examples("bgpipe doctor", "bgpipe doctor --security", "bgpipe doctor --worker")
def doctor(
    context: typer.Context,
    worker: Annotated[
        bool, typer.Option("--worker", help="Check only that this machine's workers make progress.")
    ] = False,
    dispatcher: Annotated[
        bool, typer.Option("--dispatcher", help="Check only that a dispatcher leads the cluster.")
    ] = False,
    security: Annotated[
        bool, typer.Option("--security", help="Check only what others can access.")
    ] = False,
) -> None:
    """Check whether a submit would work here. Exit code 4 if it would not."""
    asked = [
        name
        for name, wanted in (("worker", worker), ("dispatcher", dispatcher), ("security", security))
        if wanted
    ]
    if len(asked) > 1:
        raise UsageError("options are mutually exclusive: --worker, --dispatcher, --security")
    terminal: Console = context.obj
    sound = True
    look = _LOOKS[asked[0]] if asked else checks.check_machine
    for finding in _reported(look(checked()[0]), terminal):
        sound &= finding.ok
        terminal.print_json(asdict(finding) | {"ok": finding.ok})
        terminal.print(f"{finding.level:<7}  {finding.name:<11} {finding.detail}")
    raise typer.Exit(0 if sound else 4)


def _reported(findings: Iterator[Check], terminal: Console) -> Iterator[Check]:
    """`findings`, and a line on stderr about one that takes long."""
    while True:
        with report_wait(terminal.notify, "checking"):
            finding = next(findings, None)
        if finding is None:
            return
        yield finding
