"""`bgpipe doctor`: checks of this machine, its workers, a dispatcher, or the security."""

from typer import Context, Exit, Typer

from bgpipe.pipeline.cli.command_line import examples, flag
from bgpipe.pipeline.cli.commands.config import read_checked
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.diagnostics import checks
from bgpipe.pipeline.diagnostics.security import security_checks
from bgpipe.pipeline.errors import UsageError
from bgpipe.pipeline.logging import report_wait

app = Typer()


@app.command(epilog=examples("bgpipe doctor", "bgpipe doctor --security", "bgpipe doctor --worker"))
def doctor(
    context: Context,
    worker: bool = flag("--worker", help="Check only that this machine's workers make progress."),
    dispatcher: bool = flag("--dispatcher", help="Check only that a dispatcher leads the cluster."),
    security: bool = flag("--security", help="Check only what others can access."),
) -> None:
    groups = (
        (worker, checks.worker_checks),
        (dispatcher, checks.dispatcher_checks),
        (security, security_checks),
    )
    requested = [run_checks for is_requested, run_checks in groups if is_requested]
    if len(requested) > 1:
        raise UsageError("options are mutually exclusive: --worker, --dispatcher, --security")
    run_checks = requested[0] if requested else checks.machine_checks
    console: Console = context.obj

    def next_result() -> checks.Check | None:
        with report_wait(console.notify, "checking"):
            return next(results, None)

    results, passed = run_checks(read_checked()[0]), True
    while check := next_result():
        passed &= check.ok
        record = {"what": check.name, "level": check.level, "detail": check.detail, "ok": check.ok}
        console.show(record, f"{check.level:<7}  {check.name:<11} {check.detail}")
    raise Exit(0 if passed else 4)
