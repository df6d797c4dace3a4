"""The tree of commands, and the exit codes."""

from __future__ import annotations

import gc
import sys
from typing import Any

import typer

from bgpipe.pipeline.cli import command_line
from bgpipe.pipeline.cli.commands import jobs
from bgpipe.pipeline.cli.commands.bench import bench
from bgpipe.pipeline.cli.commands.config import config_commands
from bgpipe.pipeline.cli.commands.dispatch import dispatch
from bgpipe.pipeline.cli.commands.doctor import doctor
from bgpipe.pipeline.cli.commands.evaluate import evaluate
from bgpipe.pipeline.cli.commands.keys import key_commands
from bgpipe.pipeline.cli.commands.models import model_commands
from bgpipe.pipeline.cli.commands.report import report
from bgpipe.pipeline.cli.commands.serve import flower, serve
from bgpipe.pipeline.cli.commands.submit import submit
from bgpipe.pipeline.cli.commands.sweep import sweep_commands
from bgpipe.pipeline.cli.commands.worker import worker
from bgpipe.pipeline.cli.console import Console
from bgpipe.pipeline.errors import BgpipeError

JOB_COMMANDS = (jobs.status, jobs.jobs, jobs.errors, jobs.retry, jobs.cancel, jobs.resume, report)
PROCESSES = (worker, dispatch, serve, flower)

app = typer.Typer(
    name="bgpipe",
    help="Remove the backgrounds of photos, from one folder to millions of images in a bucket.",
    no_args_is_help=True,
    context_settings={"obj": Console(), "help_option_names": command_line.HELP},
)
for command in (submit, *JOB_COMMANDS, *PROCESSES, bench, doctor):
    app.command()(command)
app.command("eval")(evaluate)
app.add_typer(config_commands, name="config")
app.add_typer(key_commands, name="keys")
app.add_typer(model_commands, name="models")
app.add_typer(sweep_commands, name="sweep")


def command_tree() -> Any:  # noqa: ANN401  # click's classes, or Typer's own copies of them
    """Return all commands, as `bgpipe` runs them."""
    return command_line.complete(typer.main.get_command(app))


def main() -> None:
    """Run the command line; exit codes: 0, 1, 2, 3, 4 and 130 (infra/docs/reference.md)."""
    try:
        command_tree()(prog_name="bgpipe")
    except BgpipeError as error:
        for line in str(error).splitlines():
            Console().warn(f"bgpipe: {line}")
        sys.exit(error.exit_code)
    finally:
        gc.freeze()  # saves the interpreter a garbage collection of all modules at exit
